//! Finds or fetches PostgreSQL majors ahead of the tests, so that none of them waits for a download.
//!
//!     cargo run -p proto-tests --bin fetch-servers -- 12 15 17 18

use anyhow::Context as _;
use seqshadow::demo::servers::{find, find_or_fetch};

fn main() -> anyhow::Result<()> {
    for major in std::env::args().skip(1) {
        let major = major.parse().with_context(|| format!("expected a major version, got {major:?}"))?;
        find_or_fetch(&[], major)?;
    }
    for installation in find::find_all(&[]) {
        println!("{:<34} {}", installation.version, installation.bindir.display());
    }
    Ok(())
}
