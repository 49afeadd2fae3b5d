//! Addresses as they may be shown: without passwords and without the queries that sign them.

/// Removes passwords and queries from every address in a text. Messages of HTTP clients quote the
/// address that they asked, also the signed one that a redirect led to.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find("://") {
        let (before, after) = rest.split_at(place + 3);
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>()".contains(c));
        let (address, tail) = after.split_at(end.unwrap_or(after.len()));
        let scheme = before[..place].rsplit(|c: char| !c.is_ascii_alphanumeric()).next();
        shown.push_str(before);
        shown.push_str(&plain(scheme.unwrap_or_default(), address));
        rest = tail;
    }
    shown + rest
}

/// An address behind its scheme. Only those of web servers have a query; `?` is a wildcard
/// elsewhere.
fn plain(scheme: &str, address: &str) -> String {
    let is_web = scheme.to_ascii_lowercase().starts_with("http");
    let query = address.find(['?', '#']).filter(|_| is_web);
    let (place, hidden) = query.map_or((address, ""), |at| (&address[..at], "?…"));
    let authority = place.find('/').unwrap_or(place.len());
    let user = place[..authority].rfind('@').map(|at| at + 1);
    // Azure writes a container where others have a user.
    let user = user.filter(|end| is_web || place[..*end].contains(':'));
    format!("{}{hidden}", &place[user.unwrap_or(0)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_secrets_and_nothing_else() {
        for (text, shown) in [
            ("https://host/a.tar", "https://host/a.tar"),
            ("GET https://host/a?X-Amz-Signature=ab in 1ms", "GET https://host/a?… in 1ms"),
            ("(http://me:secret@host:80/a)", "(http://host:80/a)"),
            ("https://me@host/a@b.tar", "https://host/a@b.tar"),
            ("https://host/a#token", "https://host/a?…"),
            ("s3://bucket/a?.tar", "s3://bucket/a?.tar"),
            ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
            ("abfss://box@account/a.tar", "abfss://box@account/a.tar"),
            ("hf://datasets/who/what@main/a", "hf://datasets/who/what@main/a"),
            ("from https://a/?x to https://b/?y", "from https://a/?… to https://b/?…"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
