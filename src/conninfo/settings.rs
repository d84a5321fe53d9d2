//! The settings that choose from a list, as types: TLS, channel binding, accepted authentication, wanted server role.
//!
//! Goes in: the text of one value. Comes out: the choice, or an error that lists the allowed ones.

use super::error::ConninfoError;

/// Declares an enum whose variants are the spellings that libpq accepts.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident for $keyword:literal { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// The spelling used in connection strings.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            pub(crate) fn parse(text: &str) -> Result<Self, ConninfoError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    other => Err(ConninfoError::InvalidValue {
                        keyword: $keyword,
                        expected: format!("one of {}", [$($text),+].join(", ")),
                        got: format!("{other:?}"),
                    }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

choices! {
    /// Whether TLS is used and how the server is verified, from weakest to strongest.
    SslMode for "sslmode" {
        /// Never TLS.
        Disable = "disable",
        /// Without TLS first; with it if the server refuses.
        Allow = "allow",
        /// With TLS if the server can; without it if that fails.
        Prefer = "prefer",
        /// TLS or nothing; the chain is verified where a root certificate file exists.
        Require = "require",
        /// TLS with a verified chain.
        VerifyCa = "verify-ca",
        /// TLS with a verified chain and host name.
        VerifyFull = "verify-full",
    }
}

choices! {
    /// How TLS begins: after an SSLRequest, or at once (PostgreSQL 17).
    SslNegotiation for "sslnegotiation" {
        /// After asking the server.
        Postgres = "postgres",
        /// At once.
        Direct = "direct",
    }
}

choices! {
    /// Whether a client certificate may or must be sent.
    SslCertMode for "sslcertmode" {
        Disable = "disable",
        Allow = "allow",
        Require = "require",
    }
}

choices! {
    /// Whether SCRAM must be bound to the TLS channel.
    ChannelBinding for "channel_binding" {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

choices! {
    /// GSSAPI encryption, which we do not do: anything but `require` means without it.
    GssEncMode for "gssencmode" {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

choices! {
    /// Which role or state the server must have.
    TargetSessionAttrs for "target_session_attrs" {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
    }
}

choices! {
    /// Whether hosts and addresses are tried in the order given or at random.
    LoadBalanceHosts for "load_balance_hosts" {
        Disable = "disable",
        Random = "random",
    }
}

choices! {
    /// A method that a server may ask for; `none` is a server that asks for nothing.
    AuthMethod for "require_auth" {
        Password = "password",
        Md5 = "md5",
        Gss = "gss",
        Sspi = "sspi",
        ScramSha256 = "scram-sha-256",
        OAuth = "oauth",
        None = "none",
    }
}

/// A version of TLS, as far as the bounds of connection strings know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.0, which we do not speak.
    V1_0,
    /// TLS 1.1, which we do not speak.
    V1_1,
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl TlsVersion {
    /// Reads `TLSv1.2` and its kin, in any case as libpq does; empty means no bound.
    pub(crate) fn parse(keyword: &'static str, text: &str) -> Result<Option<Self>, ConninfoError> {
        match text.to_ascii_lowercase().as_str() {
            "" => Ok(None),
            "tlsv1" => Ok(Some(TlsVersion::V1_0)),
            "tlsv1.1" => Ok(Some(TlsVersion::V1_1)),
            "tlsv1.2" => Ok(Some(TlsVersion::V1_2)),
            "tlsv1.3" => Ok(Some(TlsVersion::V1_3)),
            _ => Err(ConninfoError::InvalidValue {
                keyword,
                expected: "one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3".to_owned(),
                got: format!("{text:?}"),
            }),
        }
    }
}

/// What `require_auth` asks for: a list of methods of which one must be used, or of methods that must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequireAuth {
    text: String,
    negated: bool,
    methods: Vec<AuthMethod>,
}

impl RequireAuth {
    /// Reads `scram-sha-256,md5` or `!password,!md5`; an empty text asks for nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, ConninfoError> {
        let mut methods = Vec::new();
        let mut negated = None;
        for word in text.split(',').filter(|_| !text.is_empty()) {
            let (this_negated, name) = word.strip_prefix('!').map_or((false, word), |name| (true, name));
            if negated.is_some_and(|negated| negated != this_negated) {
                return Err(ConninfoError::Conflict(format!(
                    "require_auth method {word:?} cannot be mixed: either all methods have a \"!\" or none"
                )));
            }
            negated = Some(this_negated);
            let method = AuthMethod::parse(name)?;
            if methods.contains(&method) {
                return Err(ConninfoError::Conflict(format!(
                    "require_auth method {word:?} is specified more than once"
                )));
            }
            methods.push(method);
        }
        Ok(RequireAuth { text: text.to_owned(), negated: negated.unwrap_or(false), methods })
    }

    /// Whether the server may use `method`; [`AuthMethod::None`] asks whether it may let us in without asking.
    #[must_use]
    pub fn allows(&self, method: AuthMethod) -> bool {
        self.methods.is_empty() || self.methods.contains(&method) != self.negated
    }

    /// The list as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn require_auth_reads_both_kinds_of_list() {
        let allowed = |text: &str, method| RequireAuth::parse(text).unwrap().allows(method);
        assert!(allowed("", AuthMethod::None));
        assert!(allowed("scram-sha-256,md5", AuthMethod::Md5));
        assert!(!allowed("scram-sha-256,md5", AuthMethod::Password));
        assert!(!allowed("scram-sha-256,md5", AuthMethod::None));
        assert!(allowed("scram-sha-256,none", AuthMethod::None));
        assert!(!allowed("!password,!md5", AuthMethod::Md5));
        assert!(allowed("!password,!md5", AuthMethod::None));
        assert!(allowed("!password,!md5", AuthMethod::ScramSha256));
        assert!(!allowed("!none", AuthMethod::None));
        for bad in
            ["scram", "md5,", ",", "!", "md5,!password", "!md5,password", "md5,md5", "MD5", "md5, none"]
        {
            assert!(RequireAuth::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn choices_are_case_sensitive_and_list_what_is_allowed() {
        assert_eq!(SslMode::parse("verify-ca").unwrap(), SslMode::VerifyCa);
        let message = SslMode::parse("Require").unwrap_err().to_string();
        assert_eq!(
            message,
            "invalid sslmode value: expected one of disable, allow, prefer, require, verify-ca, verify-full, got \"Require\""
        );
        assert_eq!(TlsVersion::parse("x", "tlsV1.3").unwrap(), Some(TlsVersion::V1_3));
        assert!(TlsVersion::parse("x", "1.3").is_err());
    }
}
