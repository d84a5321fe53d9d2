//! Managed services, as far as a plain server with their roles and settings is like them.

use super::{found, look};
use anyhow::Result;
use proto_tests::pair::{DATABASE, Pair, PairOptions};
use seqshadow::demo::servers::ClusterOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_looks_like_rds_has_its_own_ways() -> Result<()> {
    let options = PairOptions {
        publisher: ClusterOptions::default()
            .set("wal_level", "replica")
            .set("rds.logical_replication", "off"),
        ..PairOptions::default()
    };
    let pair = Pair::with(14, 15, options).await?;
    // Which is there on RDS.
    pair.on_publisher().await?.batch_execute("CREATE ROLE rds_replication").await?;
    let as_app = format!("--publisher={}", pair.publisher.conninfo_as("app", DATABASE));
    let looked = look(&pair, &[&as_app], &[])?;
    assert!(looked.of("provider")[0].starts_with("Amazon RDS: "), "{looked:?}");
    let parameter = "rds.logical_replication = 1 in the instance's parameter group, and restart it";
    assert_eq!(looked.mends("wal-level"), [parameter]);
    assert_eq!(looked.mends("replication-refused"), ["GRANT rds_replication TO app;"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_providers_and_none() -> Result<()> {
    let pair = Pair::new(17, 13).await?;
    let (publisher, subscriber) = pair.clients().await?;
    assert!(found(&pair, "provider", &[])?.is_empty());
    subscriber.batch_execute("CREATE ROLE azure_pg_admin").await?;
    let expected = "Azure Database for PostgreSQL: seems to be it: settings are changed in its own way";
    assert_eq!(found(&pair, "provider", &[])?, [expected]);
    subscriber.batch_execute("DROP ROLE azure_pg_admin").await?;
    for (make, name) in [
        ("CREATE ROLE supabase_admin", "Supabase: "),
        ("CREATE ROLE neon_superuser", "Neon: "),
        ("CREATE ROLE cloudsqlsuperuser", "Google Cloud SQL: "),
        ("CREATE ROLE rds_superuser", "Amazon RDS: "),
        (
            "CREATE FUNCTION public.aurora_version() RETURNS text LANGUAGE sql AS 'SELECT ''17.4'''",
            "Amazon Aurora: ",
        ),
    ] {
        publisher.batch_execute(make).await?;
        let found = found(&pair, "provider", &[])?;
        assert!(found.len() == 1 && found[0].starts_with(name), "{found:?}");
    }
    publisher.batch_execute("DROP FUNCTION public.aurora_version()").await?;
    pair.publisher.configure(&[("neon.timeline_id", "1234")])?;
    pair.publisher.restart()?;
    let found = found(&pair, "provider", &[])?;
    assert!(found.len() == 1 && found[0].starts_with("Neon: "), "settings say more than roles: {found:?}");
    Ok(())
}
