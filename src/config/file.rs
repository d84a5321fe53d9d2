//! A TOML file to a [`Layer`], with the line of every key, so that each error can say where it is.
//!
//! No error repeats a line of the file: it may hold a password.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::layer::{Given, Layer, Origin, Takes, known, nearest};
use super::value::ValueError;

pub(super) fn parse(file: &Path, text: &str) -> Result<Layer, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        file: file.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut layer = Layer::default();
    for (name, value) in document.get_ref() {
        let line = line_of(text, name.span().start);
        let Some((key, takes)) = known(name.get_ref()) else {
            return Err(ConfigError::UnknownKey {
                key: name.get_ref().chars().take(60).collect(),
                file: file.to_owned(),
                line,
                nearest: nearest(name.get_ref()),
            });
        };
        let origin = Origin::File { file: file.to_owned(), line, key: key.to_owned() };
        match texts_of(key, takes, value.get_ref()) {
            Ok(texts) => layer.insert(key, Given { texts, origin }),
            Err(error) => return Err(ConfigError::Value { origin: Box::new(origin), error }),
        }
    }
    Ok(layer)
}

fn texts_of(key: &str, takes: Takes, value: &DeValue<'_>) -> Result<Vec<String>, ValueError> {
    match (takes, value) {
        (Takes::Many, DeValue::Array(items)) => items.iter().map(|item| text_of(item.get_ref())).collect(),
        // `[rename]` reads better as a table: "public.orders" = "shop.orders"
        (Takes::Many, DeValue::Table(table)) if key == "rename" => table
            .iter()
            .map(|(from, to): (&Spanned<_>, _)| Ok(format!("{}={}", from.get_ref(), text_of(to.get_ref())?)))
            .collect(),
        _ => Ok(vec![text_of(value)?]),
    }
}

fn text_of(value: &DeValue<'_>) -> Result<String, ValueError> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Ok(if *switch { "on" } else { "off" }.to_owned()),
        other => Err(ValueError::Kind { got: other.type_str() }),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("/etc/seqshadow/orders.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_file_line_and_the_nearest_valid_one() {
        assert_eq!(
            error("slot = \"orders\"\n\npol_interval = 3\n"),
            "/etc/seqshadow/orders.toml:3: unknown key \"pol_interval\"; the nearest valid key is \"poll_interval\""
        );
    }

    #[test]
    fn wrong_kinds_and_broken_files_say_where() {
        assert_eq!(error("\nlead = [1]"), "/etc/seqshadow/orders.toml:2: lead: expected text, got array");
        assert_eq!(error("lead = 0x10"), "/etc/seqshadow/orders.toml:1: lead: expected text, got integer");
        let broken = error("slot = \"a\"\npublisher = \"password=hunter2\n");
        assert!(broken.starts_with("/etc/seqshadow/orders.toml:2: "), "{broken}");
        assert!(!broken.contains("hunter2"), "{broken}");
    }

    #[test]
    fn a_rename_may_be_a_table() {
        let layer = parse(Path::new("f"), "[rename]\n\"public.a\" = \"shop.b\"\n").unwrap();
        assert_eq!(
            layer.get("rename").map(|given| given.texts.clone()),
            Some(vec!["public.a=shop.b".to_owned()])
        );
    }
}
