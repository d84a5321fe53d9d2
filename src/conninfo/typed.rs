//! From text to meaning: checks every value, fills in the defaults and refuses what we cannot honour.
//!
//! Goes in: all [`Options`], already merged. Comes out: a [`Conninfo`].

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::environment::Environment;
use super::error::ConninfoError;
use super::hosts;
use super::keyvalue::is_blank;
use super::options::Options;
use super::settings::{
    ChannelBinding, GssEncMode, LoadBalanceHosts, RequireAuth, SslCertMode, SslMode, SslNegotiation,
    TargetSessionAttrs, TlsVersion,
};
use super::{Conninfo, Keepalive, RevocationLists, RootCertificates, TlsSettings};

/// libpq gives every address at least this long, so that a rounded-down second does not make it fail at once.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);

pub(crate) fn build(options: &Options, env: &Environment) -> Result<Conninfo, ConninfoError> {
    refuse_unsupported(options)?;
    let hosts = hosts::read(options, env)?;
    let user = match options.get("user") {
        Some(user) => user.to_owned(),
        None => env.user().ok_or(ConninfoError::NoUser)?.to_owned(),
    };
    let dbname = options.filled("dbname").unwrap_or(&user).to_owned();
    let passfile = match options.filled("passfile") {
        Some(path) => Some(PathBuf::from(path)),
        None => env.home().map(|home| home.join(".pgpass")),
    };
    let text = |keyword: &str| options.get(keyword).map(str::to_owned);
    Ok(Conninfo {
        hosts,
        user,
        dbname,
        password: options.filled("password").map(SecretString::from),
        passfile,
        socket_directory: env.socket_directory(),
        options: text("options"),
        application_name: text("application_name"),
        fallback_application_name: text("fallback_application_name"),
        connect_timeout: connect_timeout(options)?,
        keepalive: keepalive(options)?,
        tls: tls(options, env)?,
        channel_binding: choice(options, "channel_binding", ChannelBinding::parse, ChannelBinding::Prefer)?,
        require_auth: RequireAuth::parse(options.get("require_auth").unwrap_or_default())?,
        require_peer: options.filled("requirepeer").map(str::to_owned),
        target_session_attrs: choice(
            options,
            "target_session_attrs",
            TargetSessionAttrs::parse,
            TargetSessionAttrs::Any,
        )?,
        load_balance_hosts: choice(
            options,
            "load_balance_hosts",
            LoadBalanceHosts::parse,
            LoadBalanceHosts::Disable,
        )?,
    })
}

fn choice<T>(
    options: &Options,
    keyword: &str,
    parse: impl Fn(&str) -> Result<T, ConninfoError>,
    default: T,
) -> Result<T, ConninfoError> {
    options.get(keyword).map_or(Ok(default), parse)
}

/// Settings that libpq has and we have not, where going on without them would be weaker or other than asked.
fn refuse_unsupported(options: &Options) -> Result<(), ConninfoError> {
    let refuse = |setting: String, reason| Err(ConninfoError::Unsupported { setting, reason });
    if choice(options, "gssencmode", GssEncMode::parse, GssEncMode::Prefer)? == GssEncMode::Require {
        return refuse("gssencmode=require".to_owned(), "there is no GSSAPI encryption; use TLS");
    }
    for keyword in ["scram_client_key", "scram_server_key"] {
        if options.filled(keyword).is_some() {
            return refuse(keyword.to_owned(), "give the password instead");
        }
    }
    if options.filled("sslkeylogfile").is_some() {
        return refuse("sslkeylogfile".to_owned(), "TLS keys are never written to a file");
    }
    for keyword in ["min_protocol_version", "max_protocol_version"] {
        let version = options.filled(keyword).unwrap_or("3.0");
        if !matches!(version, "3.0" | "3.2" | "latest") {
            return Err(ConninfoError::InvalidValue {
                keyword: if keyword.starts_with("min") {
                    "min_protocol_version"
                } else {
                    "max_protocol_version"
                },
                expected: "one of 3.0, 3.2, latest".to_owned(),
                got: format!("{version:?}"),
            });
        }
        if keyword.starts_with("min") && version != "3.0" {
            return refuse(format!("{keyword}={version}"), "protocol 3.0 is spoken");
        }
    }
    Ok(())
}

/// An integer as libpq reads it: blanks around it are fine, anything else is not.
fn integer(options: &Options, keyword: &'static str) -> Result<Option<i32>, ConninfoError> {
    let Some(text) = options.filled(keyword) else {
        return Ok(None);
    };
    text.trim_matches(is_blank).parse::<i32>().map(Some).map_err(|_| ConninfoError::InvalidValue {
        keyword,
        expected: "an integer".to_owned(),
        got: format!("{text:?}"),
    })
}

/// A positive integer; zero and less mean "not set", as in libpq.
fn positive(options: &Options, keyword: &'static str) -> Result<Option<u32>, ConninfoError> {
    Ok(integer(options, keyword)?.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0))
}

fn seconds(options: &Options, keyword: &'static str) -> Result<Option<Duration>, ConninfoError> {
    Ok(positive(options, keyword)?.map(|value| Duration::from_secs(u64::from(value))))
}

fn connect_timeout(options: &Options) -> Result<Option<Duration>, ConninfoError> {
    Ok(seconds(options, "connect_timeout")?.map(|timeout| timeout.max(CONNECT_TIMEOUT_MIN)))
}

fn keepalive(options: &Options) -> Result<Keepalive, ConninfoError> {
    Ok(Keepalive {
        enabled: integer(options, "keepalives")?.unwrap_or(1) != 0,
        idle: seconds(options, "keepalives_idle")?,
        interval: seconds(options, "keepalives_interval")?,
        count: positive(options, "keepalives_count")?,
        user_timeout: positive(options, "tcp_user_timeout")?
            .map(|value| Duration::from_millis(u64::from(value))),
    })
}

fn tls(options: &Options, env: &Environment) -> Result<TlsSettings, ConninfoError> {
    let in_home = |name: &str| env.home().map(|home| home.join(".postgresql").join(name));
    let file = |keyword: &str, default: &str| {
        options.filled(keyword).map(PathBuf::from).or_else(|| in_home(default))
    };
    let named = |keyword: &str| options.filled(keyword).map(PathBuf::from);
    let system = options.get("sslrootcert") == Some("system");
    // The system's many authorities say who signs anything at all, so only a verified name means something.
    let mode_default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = choice(options, "sslmode", SslMode::parse, mode_default)?;
    let negotiation = choice(options, "sslnegotiation", SslNegotiation::parse, SslNegotiation::Postgres)?;
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(ConninfoError::Conflict(format!(
            "weak sslmode {:?} may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\" or \"verify-full\")",
            mode.as_str()
        )));
    }
    if system && mode != SslMode::VerifyFull {
        return Err(ConninfoError::Conflict(format!(
            "weak sslmode {:?} may not be used with sslrootcert=system (use \"verify-full\")",
            mode.as_str()
        )));
    }
    let version =
        |keyword: &'static str| TlsVersion::parse(keyword, options.get(keyword).unwrap_or_default());
    // libpq's own minimum, unless the connection string asks for less.
    let version_min = version("ssl_min_protocol_version")?.or(Some(TlsVersion::V1_2));
    let version_max = version("ssl_max_protocol_version")?;
    if let (Some(min), Some(max)) = (version_min, version_max) {
        if min > max {
            return Err(ConninfoError::Conflict(format!(
                "invalid SSL protocol version range: minimum {min:?} is above maximum {max:?}"
            )));
        }
        if max < TlsVersion::V1_2 {
            return Err(ConninfoError::Unsupported {
                setting: "ssl_max_protocol_version below TLSv1.2".to_owned(),
                reason: "TLS 1.2 and 1.3 are spoken",
            });
        }
    }
    let certificate_mode = choice(options, "sslcertmode", SslCertMode::parse, SslCertMode::Allow)?;
    Ok(TlsSettings {
        mode,
        negotiation,
        roots: if system {
            RootCertificates::System
        } else {
            RootCertificates::File(file("sslrootcert", "root.crt"))
        },
        revocation: match (named("sslcrl"), named("sslcrldir")) {
            (None, None) => RevocationLists::Default(in_home("root.crl")),
            (file, directory) => RevocationLists::Named { file, directory },
        },
        certificate_mode,
        certificate: file("sslcert", "postgresql.crt"),
        key: file("sslkey", "postgresql.key"),
        send_host_name: options.get("sslsni").is_none_or(|value| value.starts_with('1')),
        version_min,
        version_max,
    })
}
