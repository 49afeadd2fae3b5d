//! Rules of hosts for robots: robots.txt (RFC 9309) and the header `X-Robots-Tag`.

use std::time::Duration;

use diptych_schemas::Reason;
use reqwest::header::HeaderMap;
use texting_robots::Robot;
use url::Url;

/// Longest `Crawl-delay` that is respected. A minute per image of a host would take months for a
/// list.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Directives that forbid using an image in a data set.
const OPT_OUTS: &[&str] = &["noai", "noimageai", "noindex", "noimageindex", "none"];
/// Directives with a value after a colon, which must not be mistaken for the name of a robot.
const VALUED: &[&str] =
    &["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];

/// The known rules of a host's robots.txt.
pub(super) enum Rules {
    /// There is none, or it is not requested.
    AllowAll,
    Of(Box<Robot>),
    /// It could not be fetched, which forbids everything by RFC 9309, 2.3.1.4. The reason is the
    /// host's own failure, if it is one.
    Unreachable(Reason, String),
}

impl Rules {
    pub(super) fn parse(product: &str, text: &[u8]) -> Self {
        // The parser skips invalid lines. A text that it cannot parse at all has no rules.
        Robot::new(product, text).map_or(Self::AllowAll, |robot| Self::Of(Box::new(robot)))
    }

    pub(super) fn allow(&self, url: &Url) -> bool {
        match self {
            Self::AllowAll => true,
            Self::Of(robot) => robot.allowed(url.as_str()),
            Self::Unreachable(..) => false,
        }
    }

    /// Returns the `Crawl-delay`, which is not in the RFC but widely used.
    pub(super) fn delay(&self) -> Duration {
        match self {
            Self::Of(robot) => robot
                .delay
                .and_then(|seconds| Duration::try_from_secs_f32(seconds).ok())
                .map_or(Duration::ZERO, |delay| delay.min(LONGEST_DELAY)),
            _ => Duration::ZERO,
        }
    }
}

/// Returns the first directive of `X-Robots-Tag` that opts out, for everybody or for `product`.
///
/// The form is `[ROBOT:] DIRECTIVE, DIRECTIVE, …`. A robot's name may also appear within a list,
/// for the directives after it.
pub(super) fn opt_out(headers: &HeaderMap, product: &str) -> Option<String> {
    for value in headers.get_all("x-robots-tag") {
        let text = String::from_utf8_lossy(value.as_bytes()).to_lowercase();
        let mut ours = true;
        for part in text.split(',') {
            let mut directive = part.trim();
            if let Some((name, rest)) = directive.split_once(':')
                && !VALUED.contains(&name.trim())
            {
                let name = name.trim();
                ours = name == "*" || name.eq_ignore_ascii_case(product);
                directive = rest.trim();
            }
            if ours && OPT_OUTS.contains(&directive) {
                return Some(directive.to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("X-Robots-Tag", value.parse().unwrap());
        }
        opt_out(&headers, "diptych")
    }

    #[test]
    fn opt_outs_count_for_everybody_or_for_us() {
        for out in [
            &["noai"][..],
            &["NoImageAI, nofollow"],
            &["nofollow", "noindex"],
            &["diptych: noai"],
            &["googlebot: noai, Diptych: noindex"],
            &["*: noimageindex"],
            &["none"],
            &["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"],
            &["otherbot: noindex", "noai"],
        ] {
            assert!(tagged(out).is_some(), "{out:?}");
        }
        for allowed in [
            &[][..],
            &["all"],
            &["nofollow, noarchive"],
            &["googlebot: noai"],
            &["googlebot: nofollow, noindex"],
            &["max-snippet: 0"],
            &["unavailable_after: 2030-01-01"],
            &["noaiart"],
        ] {
            assert_eq!(tagged(allowed), None, "{allowed:?}");
        }
    }

    #[test]
    fn rules_are_for_our_name_or_for_all() {
        let url = |path: &str| Url::parse(&format!("http://example.org{path}")).unwrap();
        let text = b"User-agent: *\nDisallow: /\nCrawl-delay: 2\n\nUser-agent: Diptych\nDisallow: \
              /private\nAllow: /private/open\n";
        let ours = Rules::parse("diptych", text);
        assert!(
            ours.allow(&url("/a.jpg"))
                && ours.allow(&url("/private/open/a.jpg"))
                && !ours.allow(&url("/private/a.jpg"))
        );
        let others = Rules::parse("other", text);
        assert!(!others.allow(&url("/a.jpg")));
        assert_eq!(others.delay(), Duration::from_secs(2));
        assert!(Rules::parse("diptych", b"<html>not found\xff\x00</html>").allow(&url("/a.jpg")));
        let slow = Rules::parse("diptych", b"User-agent: *\nCrawl-delay: 86400");
        assert_eq!(slow.delay(), LONGEST_DELAY);
    }
}
