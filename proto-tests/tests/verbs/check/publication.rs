//! The publications.

use super::look;
use anyhow::Result;
use proto_tests::stage::Stage;

const COVERAGE: &[&str] = &[
    "publication-missing",
    "tables-not-published",
    "inserts-not-published",
    "id-not-in-column-list",
    "row-filter",
    "publication-breaks-updates",
];
const TABLES: &str = "
    CREATE TABLE a (id serial PRIMARY KEY, note text);
    CREATE TABLE b (id serial PRIMARY KEY, note text);
    CREATE TABLE c (id serial PRIMARY KEY, note text);
    CREATE TABLE d (id serial PRIMARY KEY, note text);
    CREATE TABLE e (id serial PRIMARY KEY, note text);
    CREATE TABLE parts (id serial, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_publications_leave_out() -> Result<()> {
    let stage = Stage::with(16, 17, TABLES).await?;
    let pair = &stage.pair;
    stage.on_publisher("CREATE PUBLICATION whole FOR ALL TABLES").await;
    assert!(look(pair, &["--publication=whole"], &[])?.among(COVERAGE).is_empty());
    assert!(look(pair, &[], &[])?.among(COVERAGE).is_empty(), "none is known");
    let looked = look(pair, &["--publication=whole", "--publication=No"], &[])?;
    assert_eq!(looked.among(COVERAGE), ["publication-missing"]);
    assert_eq!(looked.of("publication-missing"), ["publication \"No\": does not exist on the publisher"]);
    // One for all tables, made at a misspelled name, would keep the application from its UPDATEs.
    assert_eq!(looked.mends("publication-missing"), [""]);

    stage
        .on_publisher(
            "CREATE PUBLICATION pub FOR TABLE a, c (note), d WHERE (note <> ''), parts
                 WITH (publish = 'insert', publish_via_partition_root);
             CREATE PUBLICATION ends FOR TABLE e WITH (publish = 'delete')",
        )
        .await;
    let looked = look(pair, &["--publication=pub", "--publication=ends"], &[])?;
    let four = ["tables-not-published", "inserts-not-published", "id-not-in-column-list", "row-filter"];
    assert_eq!(looked.among(COVERAGE), four);
    let said: Vec<String> = four.iter().flat_map(|code| looked.of(code)).collect();
    assert_eq!(
        said,
        [
            "publications pub, ends: 1 not published: public.b",
            "publications pub, ends: 1 published without INSERT: public.e",
            "publications pub, ends: 1 not in the column list: public.c.id",
            "publications pub, ends: 1 published with a row filter: public.d",
        ]
    );
    stage.on_publisher("CREATE PUBLICATION few FOR TABLE a, c, d, e, parts").await;
    let looked = look(pair, &["--publication=few"], &[])?;
    assert_eq!(looked.mends("tables-not-published"), ["ALTER PUBLICATION few ADD TABLE public.b;"]);
    looked.mend(pair, &["tables-not-published"]).await;
    assert!(look(pair, &["--publication=few"], &[])?.among(COVERAGE).is_empty());
    // Of several one is chosen that publishes inserts, and the others keep what they publish.
    let looked = look(pair, &["--publication=pub", "--publication=ends"], &[])?;
    assert_eq!(looked.mends("tables-not-published"), ["ALTER PUBLICATION pub ADD TABLE public.b;"]);
    let inserts = "ALTER PUBLICATION ends SET (publish = 'insert, delete');";
    assert_eq!(looked.mends("inserts-not-published"), [inserts]);
    looked.mend(pair, &["tables-not-published", "inserts-not-published"]).await;
    // What the publisher has not, or cannot publish, is said and not tried.
    stage.pair.on_both("CREATE UNLOGGED TABLE fleeting (id serial PRIMARY KEY)").await?;
    stage.on_subscriber("ALTER TABLE fleeting SET LOGGED; CREATE TABLE mine (id serial PRIMARY KEY)").await;
    let looked = look(pair, &["--publication=few"], &[])?;
    assert_eq!(
        looked.of("tables-not-published"),
        ["publication few: 2 not published: public.fleeting, public.mine"]
    );
    assert_eq!(looked.mends("tables-not-published"), [""]);
    let advice = &looked.advice("tables-not-published")[0];
    assert!(advice.starts_with("public.mine is not on the publisher; "), "{advice}");
    assert!(advice.ends_with("; public.fleeting is unlogged, and cannot be published"), "{advice}");
    stage.on_subscriber("DROP TABLE mine, fleeting").await;
    stage.on_publisher("DROP TABLE fleeting").await;
    // A table of another name on the subscriber.
    stage.on_subscriber("ALTER TABLE a RENAME TO renamed").await;
    let flags = ["--publication=whole", "--rename=public.a=public.renamed"];
    assert!(look(pair, &flags, &[])?.among(COVERAGE).is_empty());
    assert_eq!(look(pair, &flags[..1], &[])?.among(COVERAGE), ["tables-not-published"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_break_the_applications_statements() -> Result<()> {
    let stage = Stage::with(15, 18, TABLES).await?;
    let pair = &stage.pair;
    let code = "publication-breaks-updates";
    let insert =
        "INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1, 'x'); INSERT INTO parts VALUES (1, 1)";
    stage.on_publisher(insert).await;
    // Harmless: the identity is listed, or nothing but inserts is published.
    stage
        .on_publisher(
            "CREATE PUBLICATION good FOR TABLE a (id), b WHERE (id > 0), parts (id, day) WITH (publish_via_partition_root);
             CREATE PUBLICATION narrow FOR TABLE c (note), d (note) WITH (publish = 'insert, truncate')",
        )
        .await;
    assert!(look(pair, &[], &[])?.of(code).is_empty());
    for (make, table, why) in [
        ("TABLE a (note)", "a", "column list leaves out id of the replica identity"),
        ("TABLE b WHERE (note <> '')", "b", "row filter uses note, not of the replica identity"),
        ("TABLE parts (id) WITH (publish_via_partition_root)", "part_1", "column list leaves out day of the"),
    ] {
        stage.on_publisher(&format!("CREATE PUBLICATION bad FOR {make}")).await;
        let looked = look(pair, &[], &[])?;
        let [found] = &looked.of(code)[..] else { panic!("{make}: {looked:?}") };
        assert!(found.starts_with(&format!("public.{table}: ")) && found.contains(why), "{found}");
        // It is as it says.
        let update = format!("UPDATE {table} SET id = id");
        stage.publisher.batch_execute(&update).await.unwrap_err();
        looked.mend(pair, &[code]).await;
        stage.on_publisher(&update).await;
        assert!(look(pair, &[], &[])?.of(code).is_empty(), "{make}");
        stage.on_publisher("DROP PUBLICATION bad").await;
    }
    stage.on_publisher("DROP PUBLICATION good; CREATE PUBLICATION bad FOR TABLE a (id, note)").await;
    assert!(look(pair, &[], &[])?.of(code).is_empty());
    stage.on_publisher("ALTER TABLE a REPLICA IDENTITY FULL").await;
    let found = look(pair, &[], &[])?.of(code);
    assert!(found.len() == 1 && found[0].contains("REPLICA IDENTITY FULL"), "{found:?}");
    stage.publisher.batch_execute("UPDATE a SET id = id").await.unwrap_err();
    Ok(())
}
