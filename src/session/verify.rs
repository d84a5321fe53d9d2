//! Whether the server's certificate is to be trusted, by libpq's rules.
//!
//! Goes in: the chain that the server shows. Comes out: a yes or the reason why not. Without roots the certificate is not
//! looked at (`sslmode=require` without a root file), but the handshake must still be signed by its key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{certificate, version1};

/// The certificates that everything must lead to.
#[derive(Debug)]
pub(super) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    /// From a file of the user, whose certificates are checked as OpenSSL checks them: they must be authorities and
    /// must not be expired, and a self-signed server certificate in the file is trusted itself.
    strict: bool,
    /// Not empty: each certificate of the chain must be covered by one of these and not be on it.
    revocation: Lists,
}

type Lists = Vec<CertificateRevocationListDer<'static>>;

impl Roots {
    pub(super) fn file(certificates: Vec<CertificateDer<'static>>, revocation: Lists) -> Self {
        Roots { certificates, strict: true, revocation }
    }

    pub(super) fn system(certificates: Vec<CertificateDer<'static>>, revocation: Lists) -> Self {
        Roots { certificates, strict: false, revocation }
    }
}

/// Decides about one server.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Option<Roots>,
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// `host` is checked against the certificate's names where it is given (verify-full).
    pub(super) fn new(roots: Option<Roots>, host: Option<String>, provider: Arc<CryptoProvider>) -> Self {
        Verifier { roots, host, algorithms: provider.signature_verification_algorithms, provider }
    }

    fn check_chain(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), String> {
        let trusted_itself =
            roots.strict && roots.certificates.iter().any(|root| root == leaf) && is_self_issued(leaf);
        if !roots.revocation.is_empty() && (trusted_itself || version1::is_old(leaf)) {
            return Err("certificate verify failed: a self-signed or version 1 certificate cannot be checked against a certificate revocation list".to_owned());
        }
        if trusted_itself {
            return check_dates(leaf, now, "the server certificate");
        }
        let (anchors, others): (Vec<_>, Vec<_>) =
            roots.certificates.iter().partition(|root| !roots.strict || is_anchor(root));
        let (anchors, expired): (Vec<_>, Vec<_>) =
            anchors.into_iter().partition(|root| !roots.strict || check_dates(root, now, "").is_ok());
        let result = if version1::is_old(leaf) {
            check_dates(leaf, now, "the server certificate")?;
            let signed = anchors.iter().any(|root| version1::is_signed_by(leaf, root, self.algorithms));
            if signed { Ok(()) } else { Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) }
        } else {
            let mut store = RootCertStore::empty();
            // What cannot be read cannot be trusted; the chain then fails on its own.
            store.add_parsable_certificates(anchors.into_iter().cloned());
            // Like OpenSSL: what is in the file and is no root may still be a link of the chain.
            let links: Vec<_> = intermediates.iter().chain(others).cloned().collect();
            if roots.revocation.is_empty() {
                ParsedCertificate::try_from(leaf).and_then(|leaf| {
                    verify_server_cert_signed_by_trust_anchor(&leaf, &store, &links, now, self.algorithms.all)
                })
            } else {
                self.check_with_lists(store, &roots.revocation, leaf, &links, now)
            }
        };
        result.map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) if !expired.is_empty() => {
                "certificate verify failed: no issuer that is trusted, and a root certificate has expired"
                    .to_owned()
            }
            Error::InvalidCertificate(error) => format!("certificate verify failed: {error}"),
            error => format!("certificate verify failed: {error}"),
        })
    }
}

impl Verifier {
    /// rustls checks revocation only together with the host name, and the name last: an error about the name alone means
    /// that the chain is good.
    fn check_with_lists(
        &self,
        store: RootCertStore,
        lists: &Lists,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
            .with_crls(lists.iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        let no_name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        match verifier.verify_server_cert(leaf, links, &no_name, &[], now) {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn refuse(reason: String) -> Error {
    Error::General(reason)
}

fn check_dates(certificate: &[u8], now: UnixTime, what: &str) -> Result<(), String> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|e| format!("{what} is malformed: {e}"))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if parsed.validity().not_after.timestamp() < now {
        return Err(format!("certificate verify failed: {what} has expired"));
    }
    if parsed.validity().not_before.timestamp() > now {
        return Err(format!("certificate verify failed: {what} is not yet valid"));
    }
    Ok(())
}

fn is_self_issued(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// Whether a certificate of the root file ends a chain: it signed itself and may sign others, because its constraints
/// say so or because it is too old to have any.
fn is_anchor(certificate: &[u8]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let may_sign = match parsed.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) if parsed.version() == X509Version::V1 => true,
        Ok(None) => parsed.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    may_sign && is_self_issued(certificate)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            self.check_chain(roots, leaf, intermediates, now).map_err(refuse)?;
        }
        if let Some(host) = &self.host {
            certificate::check_host(leaf, host).map_err(refuse)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if version1::is_old(certificate) {
            return if version1::signed_handshake(certificate, message, signature, self.algorithms) {
                Ok(HandshakeSignatureValid::assertion())
            } else {
                Err(Error::InvalidCertificate(CertificateError::BadSignature))
            };
        }
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if version1::is_old(certificate) {
            let key = version1::public_key(certificate)
                .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
            return verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms);
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
