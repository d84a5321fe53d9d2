//! Rows of the simple query protocol, enough for the few commands of a replication connection (`IDENTIFY_SYSTEM`,
//! `CREATE_REPLICATION_SLOT`, `SHOW`): small, so they are owned.

use super::reader::{ReadError, Reader};

/// Names of the columns from a RowDescription's body.
///
/// # Errors
/// [`ReadError`] when the body is of another shape.
pub fn column_names(body: &[u8]) -> Result<Vec<String>, ReadError> {
    let mut r = Reader::new(body);
    let count = r.u16()?;
    // Each field has at least 19 bytes, so the announced count cannot make us reserve more than was sent.
    let mut names = Vec::with_capacity(usize::from(count).min(r.left().len() / 19));
    for _ in 0..count {
        names.push(r.cstr()?.to_string());
        r.take(18)?; // table oid, attribute number, type oid, type size, type modifier, format
    }
    r.finish()?;
    Ok(names)
}

/// The fields of a DataRow's body as text; NULL is `None`.
///
/// # Errors
/// [`ReadError`] when the body is of another shape.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<String>>, ReadError> {
    let mut r = Reader::new(body);
    let count = r.u16()?;
    let mut fields = Vec::with_capacity(usize::from(count).min(r.left().len() / 4));
    for _ in 0..count {
        let before = r;
        fields.push(match r.i32()? {
            -1 => None,
            _ => {
                r = before;
                Some(String::from_utf8_lossy(r.counted()?).into_owned())
            }
        });
    }
    r.finish()?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_show_reply_is_read() {
        let mut description = vec![0, 1];
        description.extend_from_slice(b"server_version\0");
        description.extend_from_slice(&[0; 18]);
        assert_eq!(column_names(&description).unwrap(), ["server_version"]);
        let row = [0, 3, 0, 0, 0, 2, b'1', b'7', 255, 255, 255, 255, 0, 0, 0, 0];
        assert_eq!(data_row(&row).unwrap(), [Some("17".to_owned()), None, Some(String::new())]);
        for cut in 0..row.len() {
            assert!(data_row(&row[..cut]).is_err(), "cut at {cut}");
        }
        assert!(data_row(&[0, 1, 255, 255, 255, 254]).is_err());
    }
}
