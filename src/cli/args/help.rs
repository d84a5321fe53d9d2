//! What follows the options in `--help` and in the manual: examples, and the exit status.

pub(super) const AFTER_HELP: &str = "\
Every option of run can also be given as SEQSHADOW_<OPTION> (SEQSHADOW_POLL_INTERVAL=5s; commas between several \
values) or in the file (poll_interval = \"5s\"). Flags beat the environment, the environment beats the file.

Passwords belong into a passfile (~/.pgpass) or the environment, not on the command line.

Exit status: 0 yes or done, 1 no or not ready, 2 usage or configuration, 3 a server could not be reached, 4 refused \
for safety.";

pub(super) const DEMO_AFTER_HELP: &str = "\
Both servers listen on 127.0.0.1 only, and are removed in the end, however the demonstration ends.

Exit status: 0 everything happened as promised, 1 it did not, 2 usage (--pg-bindir without a server), 3 there is no \
PostgreSQL here and none could be fetched, 128 + n ended by signal n (Ctrl-C: 130).";

pub(super) const CHECK_AFTER_HELP: &str = "\
Give it what the daemon will be given: the flags about the slot, or better the file of both (--config).

Examples:
  seqshadow check --slot orders --publisher 'host=old dbname=app'
  seqshadow check --slot orders --ack large-objects    # taken care of
  seqshadow check --list

Exit status: 0 nothing stands against going on, 1 something does (named, with what mends it), 2 usage or \
configuration, 3 a server could not be reached.";

pub(super) const CUTOVER_AFTER_HELP: &str = "\
Without --stop-writes you have stopped the application yourself; then that is proven, not believed.

Examples:
  seqshadow cutover --dry-run --slot orders --publisher 'host=old dbname=app'
  seqshadow cutover --stop-writes --config orders.toml
  seqshadow cutover --abort --config orders.toml    # the writes go on again
  seqshadow cutover --stop-writes --config shop.toml --also billing.toml
  grep -v '\"sha256\"' CERTIFICATE | sha256sum      # as its first line says

Exit status: 0 yes, with a certificate; 1 no, with what stands against it; 2 usage or configuration; 3 a server could \
not be reached; 4 refused for safety.";

pub(super) const COMPLETIONS_AFTER_HELP: &str = "\
Examples:
  seqshadow completions bash > /etc/bash_completion.d/seqshadow
  seqshadow completions zsh > \"${fpath[1]}/_seqshadow\"
  seqshadow completions fish > ~/.config/fish/completions/seqshadow.fish";

pub(super) const SETUP_AFTER_HELP: &str = "\
The publication shows the id columns only (whole rows before PostgreSQL 15), and inserts and truncates only: it never \
concerns the application's UPDATE and DELETE. Its name is seqshadow_<slot>, or that of --publication. Run setup as a \
superuser, or as the tables' owner; the rights are for the role named by --role, or the one that an earlier setup gave \
them to. For a failover slot (publisher 17 or newer) set failover = true in the file, or SEQSHADOW_FAILOVER=on, as for \
the daemon.

With --advance-function the role may read the subscriber's sequences and call a SECURITY DEFINER function that only \
moves them forward; it cannot set one back. Give seqshadow and its other verbs the same flag.

Examples:
  seqshadow setup --config orders.toml --dry-run
  seqshadow setup --config orders.toml --role seqshadow --grant
  seqshadow setup --config orders.toml --role seqshadow --print-grants
  seqshadow setup --slot orders --role seqshadow --grant --advance-function
  seqshadow setup --config orders.toml --refresh    # after new tables

Exit status: 0 everything is as it should be, 1 something is left to be done (named), 2 usage or configuration, \
missing rights among them, 3 a server could not be reached, 4 refused for safety.";

pub(super) const TEARDOWN_AFTER_HELP: &str = "\
Removes what setup made for the slot, on both sides, and nothing else; also after a crash in the middle of either.

Examples:
  seqshadow teardown --config orders.toml --dry-run
  seqshadow teardown --config orders.toml --drop-role

Exit status: 0 nothing of it is left, 1 something is (named), 2 usage or configuration, 3 a server could not be \
reached (the other side is done), 4 refused for safety: a sidecar is running, it is not what setup made, or rights to \
remove all of it are missing; nothing was removed then.";

pub(super) const PLAN_AFTER_HELP: &str = "\
Examples:
  seqshadow plan --publisher 'host=old dbname=app' > plan.sql
  psql -X -v ON_ERROR_STOP=1 -d app -f plan.sql      # on the subscriber

Exit status: 0 done, 1 a sequence cannot be brought up (named in the script), 2 usage or configuration, 3 a server \
could not be reached.";

pub(super) const SYNC_AFTER_HELP: &str = "\
What ALTER SUBSCRIPTION … REFRESH SEQUENCES does in PostgreSQL 19, from any publisher, and never backwards.

Examples:
  seqshadow sync --dry-run --publisher 'host=old dbname=app'
  seqshadow sync --publisher 'host=old dbname=app' --lead 1000

Exit status: 0 every sequence is where it should be, 1 some are not (named), 2 usage or configuration, 3 a server could \
not be reached.";

pub(super) const VERIFY_AFTER_HELP: &str = "\
Compares with the publisher's sequences, and with what lies in the columns on both sides, through indexes.

Examples:
  seqshadow verify --publisher 'host=old dbname=app' && echo ready
  seqshadow verify --all --json | jq '.sequences[] | select(.margin < 100)'
  seqshadow verify --data --jobs 4 --state orders.json    # the rows too

Exit status: 0 proven for every sequence (with --data: every table is equal), 1 not (named), 2 usage or configuration, 3 a server could not be reached.";

pub(super) const REVERSE_AFTER_HELP: &str = "\
For the time after the switch: the new server's writes go back to the old one, and its sequences are kept ahead, so \
that going back is as safe as going forward was. --publisher is still the old server and --subscriber the new one, as \
before the switch; --slot is the slot of the sidecar that ran forwards, which must be stopped.

Run it after the cutover said yes and before the application writes on the new server. Without --apply it prints the \
SQL for psql. It refuses where a row of the old server could be lost.

Examples:
  seqshadow reverse --config orders.toml > reverse.sql
  seqshadow reverse --config orders.toml --apply \\
    --connection 'host=new dbname=app user=replicator'
  seqshadow reverse --config orders.toml --status
  seqshadow reverse --config orders.toml --undo

Exit status: 0 yes or done, 1 something is missing (named), 2 usage or configuration, 3 a server could not be reached, \
4 refused, or both servers issue ids.";

pub(super) const CAPTURE_AFTER_HELP: &str = "\
Without --slot, or with the name of one that is not there, it makes a temporary slot, which is gone when it ends: it \
sees what is written from then on. A slot that is there is read from where it stands, and left there. Until the end \
the publisher keeps the WAL of what is recorded; with a temporary slot it ends at max_retained_wal (1GiB).

The file can be read by its owner only. It has table and column names, and the rows; no address, role or password. \
--redact replaces every value but ids of tracked columns, and the content of logical messages, by x or zeros. Lengths, \
NULLs, names of tables, columns, types and origins, prefixes of logical messages, times and WAL positions stay.

While it is written, and when the stream is lost, it is FILE.partial.

Examples:
  seqshadow capture --config orders.toml --out orders.cap --seconds 60
  seqshadow capture --config orders.toml --out orders.cap --redact
  seqshadow replay orders.cap --loops 10

Exit status: 0 the file is there, 1 it is not, 2 usage or configuration, 3 a server could not be reached or the stream \
was lost, 4 refused for safety: the slot is somebody else's.";

pub(super) const REPLAY_AFTER_HELP: &str = "\
Goes through the buffer, the scanner, the decoder and the marks of the daemon, without a server. Only that is timed, \
not reading and checking the file.

Examples:
  seqshadow replay orders.cap --loops 10
  seqshadow replay orders.cap --json | jq .nanoseconds_per_message

Exit status: 0 decoded to its end, 1 the result cannot be written, 2 usage; the file cannot be read, is damaged, cut \
off or newer.";

pub(super) const STATUS_AFTER_HELP: &str = "\
Asks the running sidecar of the slot over its console, and both servers where none runs. How much WAL the slot may \
hold back is then max_retained_wal of the file or SEQSHADOW_MAX_RETAINED_WAL, as for the daemon.

Examples:
  seqshadow status --slot orders
  seqshadow status --slot orders --watch --sort lead
  seqshadow status --slot orders --only held --json | jq '.sequences[].reason'

Exit status: 0 all is well, 1 a sequence is behind, held or not protected yet, or the slot is lost, 2 usage or \
configuration, 3 a server could not be reached.";
