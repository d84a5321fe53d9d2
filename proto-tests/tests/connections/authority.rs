//! Certificates as a test wants them: of an authority of its own, good ones and bad ones.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// The serial number of every certificate that an [`Authority`] signs.
pub const SERIAL: u64 = 4711;

/// A certificate authority that signs whatever is asked of it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Authority::with(name, |_| {})
    }

    /// One whose own certificate is too old.
    pub fn expired(name: &str) -> Self {
        Authority::with(name, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// One that signs with another kind of key than P-256.
    pub fn with_algorithm(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        Authority::with_key(Authority::params(name), KeyPair::generate_for(algorithm).unwrap())
    }

    fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Authority::params(name);
        change(&mut params);
        Authority::with_key(params, KeyPair::generate().unwrap())
    }

    fn with_key(params: CertificateParams, key: KeyPair) -> Self {
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    pub fn key_pem(&self) -> String {
        self.key_pem.clone()
    }

    /// An authority below this one, and its certificate.
    pub fn intermediate(&self, name: &str) -> (Authority, String) {
        let params = Authority::params(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let authority =
            Authority { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem: pem.clone() };
        (authority, pem)
    }

    /// A revocation list with these serial numbers on it.
    pub fn revoke(&self, serials: &[u64], valid: bool) -> String {
        let revoked_certs = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(if valid { 4000 } else { 2021 }, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A certificate that signed itself and is no authority.
    pub fn self_signed_leaf(&self, common_name: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// Certificate and key for a common name and alternative names (host names or addresses).
    pub fn sign(&self, common_name: &str, names: &[&str], valid: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        self.sign_with(common_name, names, valid, &key)
    }

    pub fn sign_with(
        &self,
        common_name: &str,
        names: &[&str],
        valid: bool,
        key: &KeyPair,
    ) -> (String, String) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.serial_number = Some(SERIAL.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common_name);
        }
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        if !valid {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        (params.signed_by(key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}
