//! Authentication: what to answer to each request of the server. No IO.
//!
//! Goes in: the server's [`AuthRequest`]s, one by one, and what is known of the channel. Comes out: the message to send,
//! or an [`AuthError`]. It holds to `require_auth` and `channel_binding` as libpq does, and never lets the server skip
//! the end of a SCRAM exchange, where the server proves that it knows the password.

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};

use crate::conninfo::{AuthMethod, ChannelBinding, RequireAuth};

use super::message::AuthRequest;

/// Why we do not authenticate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    #[error("no password supplied; the server asked for one")]
    NoPassword,
    #[error("authentication method requirement {require_auth:?} failed: server requested {asked}")]
    NotAllowed { require_auth: String, asked: &'static str },
    #[error(
        "authentication method requirement {require_auth:?} failed: server did not complete authentication"
    )]
    NotCompleted { require_auth: String },
    #[error("channel binding required, but {0}")]
    ChannelBinding(&'static str),
    #[error("server requested {0} authentication, which is not supported")]
    Unsupported(String),
    #[error("SCRAM authentication failed: {0}")]
    Scram(String),
    #[error("expected {expected}, but the server sent another authentication request")]
    OutOfOrder { expected: &'static str },
    #[error("server offered SCRAM-SHA-256-PLUS authentication over a connection without TLS")]
    PlusWithoutTls,
    #[error("sslcertmode=require, but {0}")]
    ClientCertificate(&'static str),
    #[error("the password cannot be sent: {0}")]
    Encode(String),
}

/// What authentication needs to know of the transport.
#[derive(Debug, Default, Clone)]
pub struct Channel {
    pub encrypted: bool,
    /// The `tls-server-end-point` of RFC 5929: the hash of the server's certificate, where it can be made.
    pub server_end_point: Option<Vec<u8>>,
}

/// What to do after a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this and wait for the next request.
    Send(Bytes),
    /// Wait for the next request.
    Wait,
    /// Authenticated.
    Done,
}

enum State {
    Start,
    PasswordSent,
    ScramStarted(ScramSha256),
    ScramProofSent(ScramSha256),
    ScramFinished,
}

/// The client's side of one authentication.
pub struct Authenticator<'a> {
    user: &'a str,
    password: Option<SecretString>,
    channel_binding: ChannelBinding,
    require_auth: &'a RequireAuth,
    channel: Channel,
    state: State,
    bound: bool,
}

impl std::fmt::Debug for Authenticator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<'a> Authenticator<'a> {
    #[must_use]
    pub fn new(
        user: &'a str,
        password: Option<SecretString>,
        channel_binding: ChannelBinding,
        require_auth: &'a RequireAuth,
        channel: Channel,
    ) -> Self {
        Authenticator {
            user,
            password,
            channel_binding,
            require_auth,
            channel,
            state: State::Start,
            bound: false,
        }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When the answer would be against `require_auth` or `channel_binding`, when there is no password or the method is
    /// not supported, or when the server cannot prove itself.
    pub fn answer(&mut self, request: AuthRequest) -> Result<Step, AuthError> {
        match request {
            AuthRequest::Ok => self.finish(),
            AuthRequest::Cleartext => {
                self.check_method(AuthMethod::Password, "a cleartext password")?;
                self.check_unbound()?;
                self.expect_password_turn()?;
                let password = self.password()?.to_owned();
                self.send_password(password.as_bytes())
            }
            AuthRequest::Md5(salt) => {
                self.check_method(AuthMethod::Md5, "a hashed password (md5)")?;
                self.check_unbound()?;
                self.expect_password_turn()?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                self.send_password(hash.as_bytes())
            }
            AuthRequest::Sasl(mechanisms) => self.start_sasl(&mechanisms),
            AuthRequest::SaslContinue(data) => self.continue_scram(&data),
            AuthRequest::SaslFinal(data) => self.finish_scram(&data),
            AuthRequest::Unsupported(name) => {
                let method = match name {
                    "GSSAPI" => AuthMethod::Gss,
                    "SSPI" => AuthMethod::Sspi,
                    _ => return Err(AuthError::Unsupported(name.to_owned())),
                };
                self.check_method(method, name)?;
                Err(AuthError::Unsupported(name.to_owned()))
            }
        }
    }

    fn check_method(&self, method: AuthMethod, asked: &'static str) -> Result<(), AuthError> {
        if self.require_auth.allows(method) {
            return Ok(());
        }
        Err(AuthError::NotAllowed { require_auth: self.require_auth.as_str().to_owned(), asked })
    }

    fn check_unbound(&self) -> Result<(), AuthError> {
        if self.channel_binding == ChannelBinding::Require {
            return Err(AuthError::ChannelBinding("not supported by the server's authentication request"));
        }
        Ok(())
    }

    fn expect_password_turn(&self) -> Result<(), AuthError> {
        match self.state {
            State::Start | State::PasswordSent => Ok(()),
            _ => Err(AuthError::OutOfOrder { expected: "the SCRAM exchange to go on" }),
        }
    }

    fn password(&self) -> Result<&str, AuthError> {
        let given = self.password.as_ref().map(ExposeSecret::expose_secret);
        given.filter(|password| !password.is_empty()).ok_or(AuthError::NoPassword)
    }

    fn send_password(&mut self, password: &[u8]) -> Result<Step, AuthError> {
        let mut message = BytesMut::new();
        frontend::password_message(password, &mut message).map_err(|e| AuthError::Encode(e.to_string()))?;
        self.state = State::PasswordSent;
        Ok(Step::Send(message.freeze()))
    }

    fn start_sasl(&mut self, mechanisms: &[String]) -> Result<Step, AuthError> {
        if !matches!(self.state, State::Start) {
            return Err(AuthError::OutOfOrder { expected: "one SASL exchange" });
        }
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let require = self.channel_binding == ChannelBinding::Require;
        if !offered(SCRAM_SHA_256) && !offered(SCRAM_SHA_256_PLUS) {
            if offered("OAUTHBEARER") {
                self.check_method(AuthMethod::OAuth, "OAuth")?;
            }
            return Err(AuthError::Unsupported(format!("SASL ({})", mechanisms.join(", "))));
        }
        self.check_method(AuthMethod::ScramSha256, "SASL authentication (scram-sha-256)")?;
        if require && !self.channel.encrypted {
            return Err(AuthError::ChannelBinding("TLS is not in use"));
        }
        if offered(SCRAM_SHA_256_PLUS) && !self.channel.encrypted {
            return Err(AuthError::PlusWithoutTls);
        }
        let (mechanism, binding) =
            if self.channel_binding == ChannelBinding::Disable || !self.channel.encrypted {
                (SCRAM_SHA_256, sasl::ChannelBinding::unsupported())
            } else if offered(SCRAM_SHA_256_PLUS) {
                match self.channel.server_end_point.take() {
                    Some(hash) => (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
                    None if require => {
                        return Err(AuthError::ChannelBinding(
                            "the signature algorithm of the server's certificate has no hash to bind to",
                        ));
                    }
                    None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
                }
            } else {
                // Tells the server that we could have: if somebody in between took PLUS out of the offer, it will notice.
                (SCRAM_SHA_256, sasl::ChannelBinding::unrequested())
            };
        if mechanism == SCRAM_SHA_256 && (require || !offered(SCRAM_SHA_256)) {
            return Err(AuthError::ChannelBinding(
                "server did not offer an authentication method that supports channel binding",
            ));
        }
        self.bound = mechanism == SCRAM_SHA_256_PLUS;
        let scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut message)
            .map_err(|e| AuthError::Encode(e.to_string()))?;
        self.state = State::ScramStarted(scram);
        Ok(Step::Send(message.freeze()))
    }

    fn continue_scram(&mut self, data: &[u8]) -> Result<Step, AuthError> {
        let State::ScramStarted(mut scram) = std::mem::replace(&mut self.state, State::Start) else {
            return Err(AuthError::OutOfOrder { expected: "the start of a SASL exchange" });
        };
        scram.update(data).map_err(|e| AuthError::Scram(e.to_string()))?;
        let mut message = BytesMut::new();
        frontend::sasl_response(scram.message(), &mut message)
            .map_err(|e| AuthError::Encode(e.to_string()))?;
        self.state = State::ScramProofSent(scram);
        Ok(Step::Send(message.freeze()))
    }

    fn finish_scram(&mut self, data: &[u8]) -> Result<Step, AuthError> {
        let State::ScramProofSent(mut scram) = std::mem::replace(&mut self.state, State::Start) else {
            return Err(AuthError::OutOfOrder { expected: "a SASL exchange that is under way" });
        };
        scram.finish(data).map_err(|e| AuthError::Scram(e.to_string()))?;
        self.state = State::ScramFinished;
        Ok(Step::Wait)
    }

    /// The server lets us in: may it?
    fn finish(&mut self) -> Result<Step, AuthError> {
        let answered = match self.state {
            State::Start => false,
            State::PasswordSent | State::ScramFinished => true,
            State::ScramStarted(_) | State::ScramProofSent(_) => {
                return Err(AuthError::OutOfOrder { expected: "the end of the SCRAM exchange" });
            }
        };
        if !answered && !self.require_auth.allows(AuthMethod::None) {
            return Err(AuthError::NotCompleted { require_auth: self.require_auth.as_str().to_owned() });
        }
        let proven = self.bound && matches!(self.state, State::ScramFinished);
        if self.channel_binding == ChannelBinding::Require && !proven {
            return Err(AuthError::ChannelBinding("server authenticated client without channel binding"));
        }
        Ok(Step::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::{Conninfo, Environment};

    struct Setup {
        conninfo: Conninfo,
        channel: Channel,
    }

    fn setup(settings: &str, channel: Channel) -> Setup {
        let text = format!("user=bob password=hunter2 {settings}");
        Setup { conninfo: Conninfo::parse(&text, &Environment::empty()).unwrap(), channel }
    }

    fn run(setup: &Setup, requests: Vec<AuthRequest>) -> Result<Step, AuthError> {
        let conninfo = &setup.conninfo;
        let mut authenticator = Authenticator::new(
            conninfo.user(),
            conninfo.password().cloned(),
            conninfo.channel_binding(),
            conninfo.require_auth(),
            setup.channel.clone(),
        );
        assert!(!format!("{authenticator:?}").contains("hunter2"));
        requests.into_iter().try_fold(Step::Wait, |_, request| authenticator.answer(request))
    }

    fn plain() -> Channel {
        Channel::default()
    }

    fn tls() -> Channel {
        Channel { encrypted: true, server_end_point: Some(vec![7; 32]) }
    }

    fn scram(names: &[&str]) -> AuthRequest {
        AuthRequest::Sasl(names.iter().map(|name| (*name).to_owned()).collect())
    }

    const MD5: AuthRequest = AuthRequest::Md5(*b"salt");

    #[test]
    fn passwords_are_sent_as_asked() {
        let step = run(&setup("", plain()), vec![AuthRequest::Cleartext]).unwrap();
        assert_eq!(step, Step::Send(Bytes::from_static(b"p\0\0\0\x0chunter2\0")));
        let Step::Send(message) = run(&setup("", plain()), vec![MD5]).unwrap() else {
            panic!("nothing sent")
        };
        assert!(message.starts_with(b"p\0\0\0\x28md5"));
        assert_eq!(run(&setup("", plain()), vec![MD5, AuthRequest::Ok]).unwrap(), Step::Done);
    }

    #[test]
    fn no_password_is_told_before_anything_is_sent() {
        let bare = Conninfo::parse("user=bob password=''", &Environment::empty()).unwrap();
        let setup = Setup { conninfo: bare, channel: plain() };
        for request in [AuthRequest::Cleartext, MD5, scram(&["SCRAM-SHA-256"])] {
            assert!(matches!(run(&setup, vec![request]), Err(AuthError::NoPassword)));
        }
        assert_eq!(run(&setup, vec![AuthRequest::Ok]).unwrap(), Step::Done);
    }

    #[test]
    fn require_auth_holds_for_every_request() {
        for (list, request, fine) in [
            ("scram-sha-256", AuthRequest::Cleartext, false),
            ("scram-sha-256", MD5, false),
            ("scram-sha-256", AuthRequest::Ok, false),
            ("scram-sha-256", scram(&["SCRAM-SHA-256"]), true),
            ("md5,password", scram(&["SCRAM-SHA-256"]), false),
            ("md5,password", MD5, true),
            ("none", AuthRequest::Ok, true),
            ("none", MD5, false),
            ("!password", AuthRequest::Cleartext, false),
            ("!password", AuthRequest::Ok, true),
            ("!none", AuthRequest::Ok, false),
            ("!scram-sha-256", scram(&["SCRAM-SHA-256"]), false),
        ] {
            let shown = format!("{list} {request:?}");
            let result = run(&setup(&format!("require_auth={list}"), plain()), vec![request]);
            assert_eq!(result.is_ok(), fine, "{shown}: {result:?}");
        }
        let done = run(&setup("require_auth=md5", plain()), vec![MD5, AuthRequest::Ok]).unwrap();
        assert_eq!(done, Step::Done);
    }

    #[test]
    fn channel_binding_is_used_when_it_can_be_and_demanded_when_it_must_be() {
        let both = || scram(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        let first =
            |settings: &str, channel: Channel, request| match run(&setup(settings, channel), vec![request]) {
                Ok(Step::Send(message)) => {
                    let text = String::from_utf8_lossy(&message).into_owned();
                    text.split(",,")
                        .next()
                        .unwrap_or_default()
                        .replace(|c: char| c.is_control() || !c.is_ascii(), " ")
                }
                other => format!("{other:?}"),
            };
        assert!(first("", tls(), both()).contains("SCRAM-SHA-256-PLUS"));
        assert!(first("", tls(), both()).ends_with("p=tls-server-end-point"));
        assert!(first("channel_binding=disable", tls(), both()).ends_with(" n"));
        // "y": we could have, you did not offer.
        assert!(first("", tls(), scram(&["SCRAM-SHA-256"])).ends_with(" y"));
        assert!(first("", plain(), scram(&["SCRAM-SHA-256"])).ends_with(" n"));
        assert!(first("", plain(), both()).contains("PlusWithoutTls"));
        let required = "channel_binding=require";
        for request in [AuthRequest::Cleartext, MD5, AuthRequest::Ok, scram(&["SCRAM-SHA-256"])] {
            assert!(first(required, tls(), request).contains("ChannelBinding"));
        }
        assert!(first(required, plain(), both()).contains("TLS is not in use"));
        // A certificate whose signature has no hash.
        let no_hash = Channel { encrypted: true, server_end_point: None };
        assert!(first(required, no_hash.clone(), both()).contains("ChannelBinding"));
        assert!(first("", no_hash, both()).ends_with(" n"));
    }

    #[test]
    fn the_end_of_scram_cannot_be_skipped_nor_its_order_changed() {
        let start = || scram(&["SCRAM-SHA-256"]);
        let data = || Bytes::from_static(b"v=AAAA");
        for requests in [
            vec![start(), AuthRequest::Ok],
            vec![start(), AuthRequest::SaslFinal(data())],
            vec![start(), start()],
            vec![start(), AuthRequest::Cleartext],
            vec![start(), MD5],
            vec![AuthRequest::SaslContinue(data())],
            vec![AuthRequest::SaslFinal(data())],
            vec![MD5, start()],
        ] {
            let result = run(&setup("", plain()), requests);
            assert!(matches!(result, Err(AuthError::OutOfOrder { .. })), "{result:?}");
        }
        for first in ["", "r=x,s=AAAA,i=4096", "r=,s=,i=0", "e=other-error", "\u{0}"] {
            let data = Bytes::copy_from_slice(first.as_bytes());
            let result = run(&setup("", plain()), vec![start(), AuthRequest::SaslContinue(data)]);
            assert!(matches!(result, Err(AuthError::Scram(_))), "{first:?}: {result:?}");
        }
    }

    #[test]
    fn what_we_cannot_do_is_named() {
        for (request, name) in [
            (AuthRequest::Unsupported("GSSAPI"), "GSSAPI"),
            (scram(&["OAUTHBEARER"]), "OAUTHBEARER"),
            (scram(&[]), "SASL"),
        ] {
            let message = run(&setup("", tls()), vec![request]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("not supported"), "{message}");
        }
    }
}
