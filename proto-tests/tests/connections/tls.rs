//! TLS is never weaker, and never stricter, than libpq's: for each kind of server certificate, each sslmode leads `psql`
//! and us to the same end.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::authority::{Authority, SERIAL};
use crate::cluster::Cluster;
use crate::outcome::{self, Comparison, Input};

/// A certificate of version 1, without extensions: what the recipe in PostgreSQL's manual made for years.
fn version_1(cluster: &Cluster) -> (String, String) {
    let directory = cluster.file("v1/ca.crt", &cluster.ca.pem, 0o644).parent().unwrap().to_owned();
    cluster.file("v1/ca.key", &cluster.ca.key_pem(), 0o600);
    openssl(
        &directory,
        "openssl req -new -nodes -newkey rsa:2048 -subj /CN=localhost -keyout server.key -out server.csr && \
         openssl x509 -req -in server.csr -days 30 -sha256 -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt",
    )
}

/// A certificate that signed itself by RSA-PSS, where the hash stands in the parameters.
fn rsa_pss(cluster: &Cluster) -> (String, String) {
    let directory = cluster.file("pss/x", "", 0o644).parent().unwrap().to_owned();
    openssl(
        &directory,
        "openssl req -x509 -nodes -newkey rsa:2048 -subj /CN=localhost -days 30 -sha384 \
         -sigopt rsa_padding_mode:pss -keyout server.key -out server.crt",
    )
}

fn openssl(directory: &Path, script: &str) -> (String, String) {
    let output = Command::new("sh").current_dir(directory).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    (read("server.crt"), read("server.key"))
}

#[tokio::test]
async fn each_certificate_and_sslmode_ends_as_with_psql() {
    let cluster = Cluster::start().await;
    let port = cluster.port;
    let other = Authority::new("Other CA");
    let own_ca = cluster.file("ca.crt", &cluster.ca.pem, 0o644);
    let other_ca = cluster.file("other.crt", &other.pem, 0o644);
    let both_ca = cluster.file("both.crt", &format!("{}{}", other.pem, cluster.ca.pem), 0o644);
    let rubbish = cluster.file("rubbish.crt", "no certificate\n", 0o644);
    let home = cluster.file("home/x", "", 0o644).parent().unwrap().to_owned();
    let self_signed = Authority::new("localhost");
    let self_pem = (self_signed.pem.clone(), self_signed.key_pem());
    let self_root = cluster.file("self.crt", &self_signed.pem, 0o644);
    let plain_self = cluster.ca.self_signed_leaf("localhost", &["localhost"]);
    let plain_self_root = cluster.file("plain-self.crt", &plain_self.0, 0o644);
    let expired_ca = Authority::expired("Old CA");
    let expired_root = cluster.file("expired.crt", &expired_ca.pem, 0o644);
    let (middle, middle_pem) = cluster.ca.intermediate("Middle CA");
    let middle_root = cluster.file("middle.crt", &middle_pem, 0o644);
    let chained = middle.sign("localhost", &["localhost"], true);
    let with_chain = (format!("{}{middle_pem}", chained.0), chained.1.clone());
    let p384 = Authority::with_algorithm("P-384 CA", &rcgen::PKCS_ECDSA_P384_SHA384);
    let p384_root = cluster.file("p384.crt", &p384.pem, 0o644);
    let ed25519 = Authority::with_algorithm("Ed25519 CA", &rcgen::PKCS_ED25519);
    let ed25519_root = cluster.file("ed25519.crt", &ed25519.pem, 0o644);
    let pss = rsa_pss(&cluster);
    let pss_root = cluster.file("pss.crt", &pss.0, 0o644);

    let scenarios: Vec<(&str, (String, String), Vec<&PathBuf>)> = vec![
        (
            "good",
            cluster.ca.sign("x", &["localhost", "127.0.0.1"], true),
            vec![&own_ca, &other_ca, &both_ca, &rubbish],
        ),
        ("wrong host", cluster.ca.sign("localhost", &["db.example.com"], true), vec![&own_ca]),
        ("common name only", cluster.ca.sign("localhost", &[], true), vec![&own_ca]),
        ("address as common name", cluster.ca.sign("127.0.0.1", &["localhost"], true), vec![&own_ca]),
        ("address, name as common name", cluster.ca.sign("localhost", &["127.0.0.1"], true), vec![&own_ca]),
        ("other address", cluster.ca.sign("127.0.0.1", &["127.0.0.2"], true), vec![&own_ca]),
        ("address as dns name", cluster.ca.sign("x", &["127.0.0.1.example"], true), vec![&own_ca]),
        ("wildcard", cluster.ca.sign("x", &["*.localhost"], true), vec![&own_ca]),
        ("wildcard common name", cluster.ca.sign("*.localhost", &[], true), vec![&own_ca]),
        ("upper case", cluster.ca.sign("x", &["LOCALHOST"], true), vec![&own_ca]),
        ("no name", cluster.ca.sign("", &[], true), vec![&own_ca]),
        ("expired", cluster.ca.sign("localhost", &["localhost"], false), vec![&own_ca]),
        (
            "unknown authority",
            other.sign("localhost", &["localhost"], true),
            vec![&own_ca, &other_ca, &both_ca],
        ),
        ("expired authority", expired_ca.sign("localhost", &["localhost"], true), vec![&expired_root]),
        ("self-signed authority", self_pem, vec![&self_root, &own_ca]),
        ("self-signed leaf", plain_self, vec![&plain_self_root, &own_ca]),
        ("intermediate sent", with_chain, vec![&own_ca, &middle_root]),
        ("intermediate not sent", chained, vec![&own_ca, &middle_root]),
        ("version 1", version_1(&cluster), vec![&own_ca, &other_ca]),
        ("sha384", p384.sign("localhost", &["localhost"], true), vec![&p384_root]),
        ("rsa-pss", pss, vec![&pss_root]),
        ("ed25519", ed25519.sign("localhost", &["localhost"], true), vec![&ed25519_root]),
    ];
    let mut comparison = Comparison::new(&home);
    let nowhere = PathBuf::from("/nowhere.crt");
    for (name, certificate, roots) in &scenarios {
        cluster.install(certificate).await;
        for root in roots.iter().chain([&&nowhere]) {
            for mode in ["prefer", "require", "verify-ca", "verify-full"] {
                let hosts: &[&str] = match mode {
                    "verify-full" => {
                        &["localhost", "127.0.0.1", "a.localhost", "a.b.localhost", "", "LocalHost"]
                    }
                    _ => &["localhost"],
                };
                for host in hosts {
                    let text = format!(
                        "host='{host}' hostaddr=127.0.0.1 port={port} user=u_trust dbname=shop sslmode={mode} sslrootcert={}",
                        root.display()
                    );
                    comparison.run(name, &text).await;
                }
            }
        }
        // The certificate binds SCRAM to the channel whatever signed it.
        let text = format!(
            "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop sslmode=require channel_binding=require"
        );
        comparison.run(name, &text).await;
        comparison.run(name, &format!("{text} ssl_max_protocol_version=TLSv1.2")).await;
    }
    cluster.install(&cluster.ca.sign("localhost", &["localhost"], true)).await;
    for max in ["TLSv1.2", "TLSv1.3"] {
        let text = format!(
            "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop sslmode=require ssl_max_protocol_version={max} channel_binding=require"
        );
        comparison.run("versions", &text).await;
    }
    cluster.set("ssl_max_protocol_version", "TLSv1.2").await;
    let text = format!("host=127.0.0.1 port={port} user=u_trust dbname=shop");
    for tail in [
        "sslmode=require ssl_min_protocol_version=TLSv1.3",
        "ssl_min_protocol_version=TLSv1.3",
        "sslmode=require",
    ] {
        comparison.run("old server", &format!("{text} {tail}")).await;
    }
    cluster.set("ssl", "off").await;
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        for user in ["u_trust", "u_tls password=secret", "u_plain password=secret", "u_scram password=wrong"]
        {
            let text = format!(
                "host=localhost hostaddr=127.0.0.1 port={port} user={user} dbname=shop sslmode={mode} sslrootcert={}",
                own_ca.display()
            );
            comparison.run("server without TLS", &text).await;
        }
    }
    comparison.finish();
}

#[tokio::test]
async fn revoked_certificates_are_refused_as_by_psql() {
    let cluster = Cluster::start().await;
    let port = cluster.port;
    let home = cluster.file("home/x", "", 0o644).parent().unwrap().to_owned();
    let root = cluster.file("ca.crt", &cluster.ca.pem, 0o644).display().to_string();
    let list = |name: &str, serials: &[u64], valid| {
        cluster.file(name, &cluster.ca.revoke(serials, valid), 0o644).display().to_string()
    };
    let revoked = list("revoked.crl", &[SERIAL], true);
    let others = list("others.crl", &[SERIAL + 1], true);
    let expired = list("expired.crl", &[], false);
    let foreign = Authority::new("Other CA").revoke(&[], true);
    let foreign = cluster.file("foreign.crl", &foreign, 0o644).display().to_string();
    let mut comparison = Comparison::new(&home);
    let text = format!("host=localhost port={port} user=u_trust dbname=shop sslrootcert={root}");
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        for list in [&revoked, &others, &expired, &foreign] {
            comparison.run("list", &format!("{text} sslmode={mode} sslcrl={list}")).await;
        }
    }
    for (list, mode) in [(&others, "verify-full"), (&revoked, "verify-full"), (&revoked, "require")] {
        cluster.file("home/.postgresql/root.crl", &std::fs::read_to_string(list).unwrap(), 0o644);
        comparison.run("default list", &format!("{text} sslmode={mode}")).await;
    }
    let chosen = format!("{text} sslmode=verify-ca sslcrl={others}");
    comparison.run("chosen instead of the default list", &chosen).await;
    comparison.finish();
    // A list that was named and is not there: psql goes on without.
    let input =
        Input { text: format!("{text} sslmode=verify-ca sslcrl=/nowhere"), variables: vec![], home: &home };
    assert_eq!(outcome::from_us(&input).await.0, "refused: Tls");
}

#[tokio::test]
async fn client_certificates_are_sent_or_refused_as_by_psql() {
    let cluster = Cluster::start().await;
    let port = cluster.port;
    let home = cluster.file("home/x", "", 0o644).parent().unwrap().to_owned();
    let file = |name: &str, content: &str, mode| cluster.file(name, content, mode).display().to_string();
    let (good, key) = cluster.ca.sign("u_cert", &[], true);
    let (wrong_name, wrong_name_key) = cluster.ca.sign("somebody", &[], true);
    let (expired, expired_key) = cluster.ca.sign("u_cert", &[], false);
    let (foreign, foreign_key) = Authority::new("Other CA").sign("u_cert", &[], true);
    let good = file("good.crt", &good, 0o644);
    let good_key = file("good.key", &key, 0o600);
    let pairs = [
        (good.clone(), good_key.clone()),
        (good.clone(), file("group.key", &key, 0o640)),
        (good.clone(), file("world.key", &key, 0o644)),
        (good.clone(), file("write.key", &key, 0o660)),
        (good.clone(), "/nowhere.key".to_owned()),
        (good.clone(), home.display().to_string()),
        (good.clone(), file("other.key", &wrong_name_key, 0o600)),
        (good.clone(), file("rubbish.key", "no key\n", 0o600)),
        ("/nowhere.crt".to_owned(), good_key.clone()),
        (file("rubbish.crt", "no certificate\n", 0o644), good_key.clone()),
        (file("name.crt", &wrong_name, 0o644), file("name.key", &wrong_name_key, 0o600)),
        (file("expired.crt", &expired, 0o644), file("expired.key", &expired_key, 0o600)),
        (file("foreign.crt", &foreign, 0o644), file("foreign.key", &foreign_key, 0o600)),
    ];
    let mut comparison = Comparison::new(&home);
    for user in ["u_cert", "u_both password=secret", "u_trust"] {
        for mode in ["prefer", "require"] {
            for max in ["TLSv1.2", "TLSv1.3"] {
                let text = format!(
                    "host=127.0.0.1 port={port} user={user} dbname=shop sslmode={mode} ssl_max_protocol_version={max}"
                );
                for (certificate, key) in &pairs {
                    comparison.run("client", &format!("{text} sslcert={certificate} sslkey={key}")).await;
                }
                comparison.run("no client certificate", &text).await;
            }
        }
    }
    // The default files.
    cluster.file("home/.postgresql/postgresql.crt", &std::fs::read_to_string(&good).unwrap(), 0o644);
    let text = format!("host=localhost port={port} user=u_cert dbname=shop");
    comparison.run("default certificate without key", &format!("{text} sslmode=require")).await;
    cluster.file("home/.postgresql/postgresql.key", &key, 0o600);
    comparison.run("default certificate", &text).await;
    comparison.run("no default root", &format!("{text} sslmode=verify-full")).await;
    cluster.file("home/.postgresql/root.crt", &cluster.ca.pem, 0o644);
    comparison.run("default root", &format!("{text} sslmode=verify-full")).await;
    cluster.file("home/.postgresql/root.crt", &Authority::new("Other CA").pem, 0o644);
    for mode in ["prefer", "require", "verify-ca"] {
        comparison.run("wrong default root", &format!("{text} sslmode={mode}")).await;
    }
    comparison.finish();
}
