//! Whether our sessions are the servers' own: through a pooler a session's settings, locks and prepared statements may
//! end up in somebody else's.

use super::provider::Provider;
use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::sql::Connection;

const POOLED: Code = Code {
    code: "session-through-pooler",
    severity: Severity::Warning,
    meaning: "Something between us and the server, a pooler usually, answers in its name: with pooled transactions the \
              settings and locks of our session are not ours alone.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[POOLED];

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let sides = [
        (Side::Publisher, &context.publisher, context.publisher_provider),
        (Side::Subscriber, &context.sides.subscriber, context.subscriber_provider),
    ];
    let mut found = Vec::new();
    for (side, connection, provider) in sides {
        found.extend(session(side, connection, provider).await?);
    }
    Ok(found)
}

/// A server tells its own process id when a session begins; a pooler, which knows none yet, makes one up.
async fn session(
    side: Side,
    connection: &Connection,
    provider: Provider,
) -> Result<Option<Finding>, SidesError> {
    let pid: i32 = side.value(&connection.client, "SELECT pg_backend_pid()", &[]).await?;
    // Neon's own proxy makes one up as well, and passes everything else on.
    if pid == connection.backend_pid || provider == Provider::Neon {
        return Ok(None);
    }
    let message = "a pooler or proxy answers there in the server's name";
    let finding = match side {
        Side::Publisher => Finding::on_publisher(&POOLED, &connection.peer, message)
            .advise("give the server's own host and port in --publisher"),
        Side::Subscriber => Finding::on_subscriber(&POOLED, &connection.peer, message)
            .advise("give the server's own host and port in --subscriber"),
    };
    Ok(Some(finding))
}
