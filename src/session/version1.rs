//! Certificates of version 1, which `webpki` does not read at all.
//!
//! Goes in: a certificate, its possible issuers, a signature. Comes out: whether the signature is right. Servers set up
//! by the old recipe of PostgreSQL's manual (`openssl x509 -req` without extensions) have such certificates, and libpq
//! accepts them. Only a certificate that a root signed itself is accepted here: a chain without extensions says nothing
//! about who may sign whom.

use rustls::DigitallySignedStruct;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// Whether `certificate` is too old for `webpki`.
pub(super) fn is_old(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.version() != X509Version::V3)
}

/// Whether `issuer` signed `certificate`.
pub(super) fn is_signed_by(certificate: &[u8], issuer: &[u8], algorithms: WebPkiSupportedAlgorithms) -> bool {
    let (Ok((_, parsed)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    let (Some(signature_algorithm), Some(key_algorithm)) =
        (signature_algorithm(certificate), key_algorithm(issuer.public_key().raw))
    else {
        return false;
    };
    parsed.issuer().as_raw() == issuer.subject().as_raw()
        && parsed.tbs_certificate.signature == parsed.signature_algorithm
        && algorithms.all.iter().any(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm
                && fits(
                    *algorithm,
                    key_algorithm,
                    &issuer.public_key().subject_public_key.data,
                    parsed.tbs_certificate.as_ref(),
                    &parsed.signature_value.data,
                )
        })
}

/// Whether a TLS 1.2 handshake was signed with the key of `certificate`.
pub(super) fn signed_handshake(
    certificate: &[u8],
    message: &[u8],
    signature: &DigitallySignedStruct,
    algorithms: WebPkiSupportedAlgorithms,
) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Some(key_algorithm) = key_algorithm(parsed.public_key().raw) else {
        return false;
    };
    let candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme);
    candidates.flat_map(|(_, candidates)| candidates.iter()).any(|algorithm| {
        let key = &parsed.public_key().subject_public_key.data;
        fits(*algorithm, key_algorithm, key, message, signature.signature())
    })
}

/// The public key of `certificate`, for TLS 1.3, which needs no more than that.
pub(super) fn public_key(certificate: &[u8]) -> Option<SubjectPublicKeyInfoDer<'_>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw))
}

fn fits(
    algorithm: &dyn SignatureVerificationAlgorithm,
    key_algorithm: &[u8],
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    algorithm.public_key_alg_id().as_ref() == key_algorithm
        && algorithm.verify_signature(key, message, signature).is_ok()
}

/// The inside of the signatureAlgorithm of a Certificate: its second element.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = element(certificate)?;
    let (_, after_tbs) = element(inside)?;
    element(after_tbs).map(|(inside, _)| inside)
}

/// The inside of the algorithm of a SubjectPublicKeyInfo: its first element.
fn key_algorithm(key_info: &[u8]) -> Option<&[u8]> {
    let (inside, _) = element(key_info)?;
    element(inside).map(|(inside, _)| inside)
}

/// The inside of the first DER element, and what follows it.
fn element(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
        (bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte)), rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_within_their_bounds() {
        assert_eq!(element(b"\x30\x02ab!"), Some((&b"ab"[..], &b"!"[..])));
        assert_eq!(element(b"\x30\x81\x02ab"), Some((&b"ab"[..], &b""[..])));
        for bad in [
            &b""[..],
            b"\x30",
            b"\x30\x03ab",
            b"\x30\x81",
            b"\x30\x85\0\0\0\0\x01a",
            b"\x30\x84\xff\xff\xff\xffa",
        ] {
            assert_eq!(element(bad), None);
        }
    }
}
