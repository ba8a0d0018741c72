//! Splitting a command into words, as Python's `shlex.split` does. Source: Python's library reference, shlex (POSIX mode).
#![forbid(unsafe_code)]

/// # Errors
/// In the words of Python, for a quotation or an escape that does not end.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(rest.next().ok_or("No escaped character")?),
            '\'' => single(&mut rest, word.get_or_insert_default())?,
            '"' => double(&mut rest, word.get_or_insert_default())?,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    loop {
        match rest.next().ok_or("No closing quotation")? {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
}

/// A backslash escapes a quotation mark and itself.
fn double(rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    loop {
        match rest.next().ok_or("No closing quotation")? {
            '"' => return Ok(()),
            '\\' => match rest.next().ok_or("No escaped character")? {
                c @ ('"' | '\\') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_python() {
        for (text, words) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("a 'b c' \"d e\"", &["a", "b c", "d e"]),
            ("a''b \"\" ''", &["ab", "", ""]),
            (r#"a\ b "c\"d\\e\f" 'g\h'"#, &["a b", "c\"d\\e\\f", "g\\h"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text:?}");
        }
        for (text, error) in
            [("'a", "No closing quotation"), ("\"a", "No closing quotation"), ("a\\", "No escaped character")]
        {
            assert_eq!(split(text).unwrap_err(), error);
        }
    }
}
