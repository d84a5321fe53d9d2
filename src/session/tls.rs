//! From TLS settings to a rustls configuration, one per connection attempt.
//!
//! Goes in: [`TlsSettings`] and the host name. Comes out: a client configuration, or the reason why there can be none. Files
//! are read at each attempt, so renewed certificates are found without a restart.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};

use crate::conninfo::{RevocationLists, RootCertificates, SslCertMode, SslMode, TlsSettings, TlsVersion};

use super::verify::{Roots, Verifier};

/// PostgreSQL's name in the TLS handshake (17 and later look at it; required for direct TLS).
const ALPN: &[u8] = b"postgresql";

/// Everything for one handshake.
pub(super) struct Setup {
    pub config: Arc<ClientConfig>,
    pub server_name: ServerName<'static>,
    pub certificate: Arc<ClientCertificate>,
}

/// Reads the files and builds the configuration. `host` is `host` of the connection string, not an address.
pub(super) fn setup(settings: &TlsSettings, host: Option<&str>) -> Result<Setup, String> {
    let provider = Arc::new(ring::default_provider());
    let host = host.filter(|host| !host.is_empty());
    let roots = read_roots(settings)?;
    let check_host = if settings.mode == SslMode::VerifyFull {
        Some(host.ok_or("a host name must be specified for a verified SSL connection")?.to_owned())
    } else {
        None
    };
    let certificate = Arc::new(read_client_certificate(settings, &provider)?);
    let verifier = Verifier::new(roots, check_host, provider.clone());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(settings))
        .map_err(|e| format!("no usable TLS version: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![ALPN.to_vec()];
    let sni =
        host.filter(|_| settings.send_host_name).and_then(|host| ServerName::try_from(host.to_owned()).ok());
    config.enable_sni = matches!(sni, Some(ServerName::DnsName(_)));
    // Names are checked by our verifier; this one is only what is sent.
    let server_name = sni.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
    Ok(Setup { config: Arc::new(config), server_name, certificate })
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let inside = |version| {
        settings.version_min.is_none_or(|min| min <= version)
            && settings.version_max.is_none_or(|max| version <= max)
    };
    let mut versions = Vec::new();
    if inside(TlsVersion::V1_3) {
        versions.push(&rustls::version::TLS13);
    }
    if inside(TlsVersion::V1_2) {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

/// The roots to verify against; `None` where the mode allows to go without and there is no file.
fn read_roots(settings: &TlsSettings) -> Result<Option<Roots>, String> {
    let path = match &settings.roots {
        RootCertificates::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err("sslrootcert=system, but the system has no root certificates".to_owned());
            }
            let lists = match &settings.revocation {
                // The user's default list belongs to the user's default roots.
                RevocationLists::Default(_) => Vec::new(),
                named @ RevocationLists::Named { .. } => read_revocation_lists(named)?,
            };
            return Ok(Some(Roots::system(found.certs, lists)));
        }
        RootCertificates::File(path) => path.as_deref(),
    };
    let demanded = settings.mode >= SslMode::VerifyCa;
    let Some(path) = path else {
        return if demanded {
            Err("there is no home directory to find the root certificate file in; set sslrootcert".to_owned())
        } else {
            Ok(None)
        };
    };
    let pem = match std::fs::read(path) {
        Ok(pem) => pem,
        // libpq only asks whether the file is there; what is there and cannot be read is an error.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return if demanded {
                Err(format!(
                    "root certificate file {} does not exist; provide it, use the system's trusted roots with sslrootcert=system, or change sslmode to disable server certificate verification",
                    path.display()
                ))
            } else {
                Ok(None)
            };
        }
        Err(error) => {
            return Err(format!("could not read root certificate file {}: {error}", path.display()));
        }
    };
    let certificates = read_certificates(&pem, path, "root certificate file")?;
    Ok(Some(Roots::file(certificates, read_revocation_lists(&settings.revocation)?)))
}

fn read_revocation_lists(
    lists: &RevocationLists,
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let (file, directory) = match lists {
        RevocationLists::Default(path) => (path.as_deref().filter(|path| path.exists()), None),
        RevocationLists::Named { file, directory } => (file.as_deref(), directory.as_deref()),
    };
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        format!("could not read certificate revocation list {}: {error}", path.display())
    };
    let read = |path: &Path| -> Result<Vec<_>, String> {
        let pem = std::fs::read(path).map_err(|e| failed(path, &e))?;
        CertificateRevocationListDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|e| failed(path, &e))
    };
    let mut found = file.map_or(Ok(Vec::new()), read)?;
    if let Some(path) = file.filter(|_| found.is_empty()) {
        return Err(failed(path, &"there is none in it"));
    }
    if let Some(directory) = directory {
        for entry in std::fs::read_dir(directory).map_err(|e| failed(directory, &e))? {
            let path = entry.map_err(|e| failed(directory, &e))?.path();
            if path.is_file() {
                found.extend(read(&path)?);
            }
        }
        if found.is_empty() {
            return Err(failed(directory, &"there is none in it"));
        }
    }
    Ok(found)
}

fn read_certificates(pem: &[u8], path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("could not read {what} {}: {e}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{what} {} contains no certificate", path.display()));
    }
    Ok(certificates)
}

/// The client's certificate, and what became of it in the handshake.
#[derive(Debug)]
pub(super) struct ClientCertificate {
    key: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
}

impl ClientCertificate {
    /// Whether the server asked for one.
    pub(super) fn was_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Whether there was one to send.
    pub(super) fn exists(&self) -> bool {
        self.key.is_some()
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _roots: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.key.clone().filter(|key| key.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read_client_certificate(
    settings: &TlsSettings,
    provider: &CryptoProvider,
) -> Result<ClientCertificate, String> {
    let none = ClientCertificate { key: None, requested: AtomicBool::new(false) };
    let path = settings.certificate.as_deref().filter(|_| settings.certificate_mode != SslCertMode::Disable);
    let Some(path) = path else {
        return Ok(none);
    };
    let pem = match std::fs::read(path) {
        Ok(pem) => pem,
        // As in libpq, a certificate that is not there is not sent, even if it was named.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(none);
        }
        Err(error) => return Err(format!("could not open certificate file {}: {error}", path.display())),
    };
    let chain = read_certificates(&pem, path, "certificate file")?;
    let key_path = settings.key.as_deref().ok_or("certificate present, but no private key file")?;
    if key_path.to_str().is_some_and(|text| text.contains(':') && !text.starts_with('/')) {
        return Err("private keys in an OpenSSL engine (sslkey=engine:key) are not supported".to_owned());
    }
    let key = read_key(key_path)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|e| {
        format!("certificate {} does not match private key file {}: {e}", path.display(), key_path.display())
    })?;
    Ok(ClientCertificate { key: Some(Arc::new(key)), ..none })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path)
        .map_err(|e| format!("certificate present, but not private key file {shown}: {e}"))?;
    if !metadata.is_file() {
        return Err(format!("private key file {shown} is not a regular file"));
    }
    // A key of root may be readable by a group (Debian's ssl-cert); nobody else's may.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(format!(
            "private key file {shown} has group or world access; file must have permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root"
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| format!("could not load private key file {shown}: {e}"))?;
    let encrypted = [b"ENCRYPTED PRIVATE KEY".as_slice(), b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == *mark)) {
        return Err(format!("private key file {shown} is encrypted, which is not supported; decrypt it"));
    }
    if bytes.starts_with(b"\x30") {
        return PrivateKeyDer::try_from(bytes)
            .map_err(|e| format!("could not load private key file {shown}: {e}"));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| format!("could not load private key file {shown}: {e}"))
}
