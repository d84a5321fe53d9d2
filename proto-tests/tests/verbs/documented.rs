//! `src/json.md` names every field that a verb prints, with its type, and none that no verb prints: compared with the
//! stored shapes, which the other tests compare with what is printed.

use super::shapes::shape;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Type of a field by its path (`a[].b`), by schema. One that is there in two shapes may have two.
type Described = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn described() -> Described {
    let text = include_str!("../../../src/json.md");
    let mut described = Described::new();
    let mut schema = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            assert!(text.contains(&format!("`{title}`")), "{title} is in the list of who prints it");
            schema = Some(described.entry(title.to_owned()).or_default());
            continue;
        }
        let (Some(fields), Some(row)) = (&mut schema, line.strip_prefix("| `")) else { continue };
        let cells: Vec<&str> = row.trim_end_matches(" |").splitn(3, " | ").collect();
        let [path, kind, meaning] = cells[..] else { panic!("{line}") };
        assert!(!meaning.trim().is_empty(), "{line}");
        let is_new = fields.entry(path.trim_end_matches('`').to_owned()).or_default().insert(kind.to_owned());
        assert!(is_new, "twice: {line}");
    }
    described
}

/// The stored documents, and whether each is a shape already.
fn stored() -> Vec<(String, bool, Value)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs");
    let mut all = Vec::new();
    for directory in ["snapshots", "check/snapshots"] {
        for file in std::fs::read_dir(tests.join(directory)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let Some((_, json)) = text.trim_start_matches("---\n").split_once("\n---\n") else {
                panic!("{name} has no head")
            };
            let json: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{name}: {error}"));
            let is_shape = name.starts_with("verbs__shapes__");
            all.push((name, is_shape, if is_shape { json } else { shape(&json) }));
        }
    }
    all
}

/// The fields of a shape: path, and what the shape has there.
fn fields<'a>(at: &str, value: &'a Value, maps: &BTreeSet<&str>, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(object) if !maps.contains(at) => {
            for (name, value) in object {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.push((path.clone(), value));
                fields(&path, value, maps, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|one| fields(&format!("{at}[]"), one, maps, found)),
        _ => {}
    }
}

/// Whether what a shape has is what is described.
fn fits(kind: &str, shape: &Value) -> bool {
    let kind = kind.trim_end_matches(", optional");
    let (kind, may_be_null) = match kind.strip_suffix(" or null") {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    match shape {
        Value::Object(_) => kind == "object" || kind == "map of text",
        Value::Array(list) => match (kind.strip_prefix("list of "), list.first()) {
            (_, None) => kind.starts_with("list"),
            (Some(of), Some(element)) => element == of,
            (None, Some(element)) => kind == "list" && element.is_object(),
        },
        Value::String(text) => match text.strip_suffix(" or null") {
            Some(text) => may_be_null && text == kind,
            None => text == kind || (text == "null" && may_be_null) || text.starts_with("seqshadow."),
        },
        _ => false,
    }
}

#[test]
fn every_field_is_described_and_every_described_field_is_there() {
    let described = described();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, is_shape, json) in stored() {
        // Of a document that is no shape the schema's name became the word text.
        let schema = match json["schema"].as_str().unwrap() {
            "text" if name.contains("check") => "seqshadow.check/1",
            "text" => "seqshadow.status/1",
            schema => schema,
        };
        let here = described.get(schema).unwrap_or_else(|| panic!("{name}: {schema} is not described"));
        let maps = here.iter().filter(|(_, kinds)| kinds.iter().any(|kind| kind.starts_with("map")));
        let maps: BTreeSet<&str> = maps.map(|(path, _)| path.as_str()).collect();
        let mut found = Vec::new();
        fields("", &json, &maps, &mut found);
        for (path, shape) in found {
            let kinds = here.get(&path).unwrap_or_else(|| panic!("{name}: {path} is not described"));
            // Elsewhere what differs from run to run was replaced by a text.
            assert!(
                !is_shape || kinds.iter().any(|kind| fits(kind, shape)),
                "{name}: {path} is {shape}, and described as {kinds:?}"
            );
            seen.entry(schema.to_owned()).or_default().insert(path);
        }
    }
    for (schema, fields) in &described {
        let there = seen.get(schema).unwrap_or_else(|| panic!("nothing is stored of {schema}"));
        let missing: Vec<&String> = fields.keys().filter(|path| !there.contains(*path)).collect();
        assert!(missing.is_empty(), "{schema}: nobody prints {missing:?}");
    }
}
