//! `setup` and `teardown`: what is made is narrow, marked and made once; what is removed is exactly that.

mod crash;
mod function;
mod publication;
mod refusals;
mod rights;
mod slot;
mod squatted;

use proto_tests::pair::Pair;
use proto_tests::shadow::{Finished, ShadowCommand};
use proto_tests::verb;
use tokio_postgres::Client;

/// Runs a verb for the slot `ours`, as superuser on both sides.
pub fn admin(pair: &Pair, verb: &str, flags: &[&str]) -> Finished {
    admin_command(pair, verb, flags).run(proto_tests::sql::PATIENCE).unwrap()
}

fn admin_command(pair: &Pair, verb: &str, flags: &[&str]) -> ShadowCommand {
    let publisher = format!("--publisher={}", pair.publisher_conninfo());
    let subscriber = format!("--subscriber={}", pair.subscriber_conninfo());
    let given = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
    let mut all = vec![];
    if !given("--slot") {
        all.push("--slot=ours");
    }
    if !given("--publisher") {
        all.push(&publisher);
    }
    if !given("--subscriber") {
        all.push(&subscriber);
    }
    all.extend(flags);
    verb::command(pair, verb, &all)
}

#[track_caller]
pub fn ends(run: &Finished, code: i32, words: &[&str]) {
    assert_eq!(run.code(), code, "{}", run.all());
    let all = run.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(all.contains(word), "expected {word:?} in\n{}", run.all());
    }
    // JSON, SQL and the command to paste are not wrapped.
    let is_prose = |line: &&str| !line.starts_with("-- ") && !line.starts_with("    seqshadow ");
    let fits = |line: &str| line.chars().count() <= 80;
    let fits_all = run.stdout.lines().take_while(is_prose).all(fits);
    assert!(run.stdout.starts_with('{') || fits_all, "{}", run.all());
}

/// All that setup could leave behind on a server, as one sorted text.
pub async fn inventory(client: &Client) -> String {
    let sql = "
        SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
            SELECT format('publication %s %s %s', pubname, to_jsonb(p) - 'oid', obj_description(oid, 'pg_publication'))
              FROM pg_publication p
            UNION ALL SELECT format('publishes %s %s', prpubid, prrelid::regclass) FROM pg_publication_rel
            UNION ALL SELECT format('slot %s %s', slot_name, plugin) FROM pg_replication_slots
            UNION ALL SELECT format('role %s %s %s %s %s', rolname, rolcanlogin, rolreplication, rolinherit,
                                    shobj_description(oid, 'pg_authid')) FROM pg_roles
            UNION ALL SELECT format('member %s %s', roleid::regrole, member::regrole) FROM pg_auth_members
            UNION ALL SELECT format('relation %s %s %s', c.oid::regclass, x.grantee, x.privilege_type)
              FROM pg_class c, aclexplode(coalesce(c.relacl,
                       acldefault(CASE c.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, c.relowner))) x
             WHERE c.relkind IN ('r', 'p', 'S', 'v') AND c.relnamespace >= 2200
            UNION ALL SELECT format('column %s %s %s %s', a.attrelid::regclass, a.attname, x.grantee, x.privilege_type)
              FROM pg_attribute a, aclexplode(a.attacl) x
            UNION ALL SELECT format('schema %s %s %s', n.nspname, x.grantee, x.privilege_type)
              FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
             WHERE n.nspname !~ '^pg_(toast_)?temp'
            UNION ALL SELECT format('database %s %s %s', d.datname, x.grantee, x.privilege_type)
              FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
            UNION ALL SELECT format('function %s %s %s', p.oid::regprocedure, p.proowner, p.proacl)
              FROM pg_proc p WHERE p.oid >= 16384
            UNION ALL SELECT format('default %s %s %s %s %s', d.defaclrole::regrole, d.defaclnamespace, d.defaclobjtype,
                                    x.grantee, x.privilege_type)
              FROM pg_default_acl d, aclexplode(d.defaclacl) x
        ) lines (line)";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Both servers' inventories.
async fn inventories(stage: &proto_tests::stage::Stage) -> [String; 2] {
    [inventory(&stage.publisher).await, inventory(&stage.subscriber).await]
}

/// Waits until nobody uses the slot `ours`: the publisher notices a moment later that its client is gone.
async fn wait_for_free_slot(stage: &proto_tests::stage::Stage) {
    let sql = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'ours'";
    proto_tests::sql::wait_for(&stage.pair.publisher_conninfo(), "the slot to be free", sql).await.unwrap();
}
