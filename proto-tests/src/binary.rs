//! The program under test, built in the profile that the tests were built in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a built `seqshadow` to test instead of building one.
pub const BINARY_VARIABLE: &str = "SEQSHADOW_TEST_BINARY";

/// The path of the `seqshadow` program. The first call of a process builds it, if it is not fresh.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| std::env::var_os(BINARY_VARIABLE).map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--workspace", "--bin", "seqshadow", "--message-format=json-render-diagnostics"])
        .args(["--profile", &profile()])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "seqshadow did not build:\n{}", String::from_utf8_lossy(&output.stderr));
    // One JSON document a line; the one of the program has its path.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "seqshadow")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the program is")
}

/// A test program is `target/[TRIPLE/]PROFILE/deps/NAME`, any other one `target/[TRIPLE/]PROFILE/NAME`.
fn profile() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let mut folders = program.ancestors().skip(1).filter_map(Path::file_name);
    let folder = folders.find(|folder| *folder != "deps").unwrap_or_default();
    match folder.to_string_lossy().as_ref() {
        "debug" | "" => "dev".to_owned(),
        other => other.to_owned(),
    }
}
