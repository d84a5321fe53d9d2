//! What we read out of the server's certificate ourselves: which host names it is for, and the hash that binds SCRAM to it.
//!
//! Goes in: a certificate in DER. Comes out: a yes or no, or a hash. Host names follow libpq (`fe-secure-common.c`,
//! manual "SSL Client Certificates"): alternative names first, the common name only where there is no alternative name of
//! the same kind, and a `*` stands for exactly the first label.

use std::net::IpAddr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// Whether the certificate is for `host`; the names it is for otherwise.
pub(super) fn check_host(certificate: &[u8], host: &str) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| format!("the server certificate is malformed: {e}"))?;
    let address = host.parse::<IpAddr>().ok();
    let mut names = Vec::new();
    let mut common_name_counts = true;
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|e| format!("the server certificate's alternative names are malformed: {e}"))?;
    for name in alternative.iter().flat_map(|extension| extension.value.general_names.iter()) {
        match name {
            GeneralName::DNSName(name) => {
                common_name_counts &= address.is_some();
                if name_matches(name, host) {
                    return Ok(());
                }
                names.push((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                common_name_counts &= address.is_none();
                let name = address_from(bytes);
                if name.is_some() && name == address {
                    return Ok(());
                }
                names.extend(name.map(|name| name.to_string()));
            }
            _ => {}
        }
    }
    if common_name_counts
        && let Some(name) = certificate.subject().iter_common_name().next()
        && let Ok(name) = name.as_str()
    {
        if name_matches(name, host) {
            return Ok(());
        }
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err("could not get the server's host name from the server certificate".to_owned());
    }
    Err(format!("server certificate for {} does not match host name {host:?}", names.join(", ")))
}

fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.").filter(|suffix| !suffix.is_empty()) else {
        return false;
    };
    host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
}

/// `tls-server-end-point` of RFC 5929: the certificate hashed as its own signature was, SHA-256 in place of MD5 and
/// SHA-1. `None` where the signature has no hash of its own (Ed25519).
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.algorithm.to_id_string();
    let oid = match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => oid,
    };
    let hash = match oid.as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256; DSA with SHA-1, SHA-256; the bare hashes of RSA-PSS.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.2.840.10040.4.3"
        | "2.16.840.1.101.3.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
            Sha224::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Sha384::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    };
    Some(hash)
}
