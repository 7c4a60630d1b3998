//! Fields of queries and forms, cookies, and places within these pages.

use std::collections::BTreeMap;

/// Fields by name; of several with one name the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// From `a=1&b=2`, as forms and queries are written.
    pub(crate) fn parse(text: &[u8]) -> Fields {
        Fields(form_urlencoded::parse(text).into_owned().collect())
    }

    /// A field without white space around it; empty when it is not there.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// A field as it was sent.
    pub(crate) fn raw(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A field that holds a number; `None` where it is empty.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("{name} = {text} is not a number that is taken here")),
        }
    }

    /// The same fields with one of them changed, as a query; an empty value takes the field away.
    pub(crate) fn with(&self, name: &str, value: &str) -> String {
        let mut fields = self.0.clone();
        fields.insert(name.to_owned(), value.to_owned());
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty()));
        query.finish()
    }
}

/// `path?a=1&b=2`.
pub(crate) fn link(path: &str, fields: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields);
    format!("{path}?{}", query.finish())
}

/// A cookie's value.
pub(crate) fn cookie<'c>(cookies: &'c str, name: &str) -> Option<&'c str> {
    cookies.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(known, _)| *known == name).map(|(_, v)| v)
}

/// A place of these pages, to which a form goes back: never another host.
pub(crate) fn place(text: &str) -> &str {
    let sound = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if sound && text.starts_with('/') && !text.starts_with("//") { text } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written() {
        let fields = Fields::parse(b"q=a+b%26&page=2&page=3&bad=x");
        assert_eq!((fields.get("q"), fields.get("page"), fields.get("none")), ("a b&", "3", ""));
        assert_eq!(fields.number::<u32>("page"), Ok(Some(3)));
        assert_eq!(fields.number::<u32>("none"), Ok(None));
        assert!(fields.number::<u32>("bad").is_err());
        assert_eq!(fields.with("page", "4"), "bad=x&page=4&q=a+b%26");
        assert_eq!(fields.with("bad", ""), "page=3&q=a+b%26");
        assert_eq!(link("/topic", &[("name", "%DLQ%g")]), "/topic?name=%25DLQ%25g");
    }

    #[test]
    fn cookies_by_name() {
        assert_eq!(cookie("a=1; session=xy; b=", "session"), Some("xy"));
        assert_eq!(cookie("a=1; session=xy; b=", "b"), Some(""));
        assert_eq!(cookie("xsession=1", "session"), None);
    }

    #[test]
    fn only_places_of_our_own() {
        for (text, expected) in [
            ("/topics?q=a", "/topics?q=a"),
            ("//evil", "/"),
            ("/\\evil", "/"),
            ("https://evil", "/"),
            ("", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
        ] {
            assert_eq!(place(text), expected, "{text:?}");
        }
    }
}
