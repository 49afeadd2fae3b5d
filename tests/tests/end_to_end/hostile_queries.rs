//! Queries of hostile or careless clients: the query fails, and nothing else does.

use std::time::{Duration, Instant};

use diptych_test_support::{eventually, seed};
use diptych_tests::service::{PATIENCE, Service};
use diptych_tests::{Work, messages};
use rand::prelude::*;
use serde_json::{Value, json};

/// Longest time of a query here in seconds. Its end may take longer, since the machine runs other
/// tests too.
const LONGEST: u64 = 3;
const ENDS_WITHIN: Duration = Duration::from_secs(10);

fn served(work: &Work, max_seconds: u64) -> Service {
    work.write(
        "diptych.toml",
        format!(
            "state = \"state\"\nlisten = \"127.0.0.1:0\"\n[[dataset]]\nname = \"pairs\"\npath = \"data\"\n\
             [sql]\nmemory_mib = 128\nmax_seconds = {max_seconds}\nconcurrent = 3\n"
        ),
    );
    Service::start(work)
}

fn ask(service: &Service, query: &str) -> (u16, Value) {
    let began = Instant::now();
    let asked = json!({ "query": query, "dataset": "pairs" });
    let answer = service.ask("POST", "/v1/sql", Some(&asked));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(LONGEST) + ENDS_WITHIN, "{took:?} for {query:.300}");
    (answer.status, answer.json)
}

/// Checks that the query is refused or fails with one of these codes, and that the service goes on.
fn fails(service: &Service, query: &str, codes: &[&str]) -> String {
    let (status, answer) = ask(service, query);
    let code = answer["code"].as_str().unwrap_or_default();
    assert!((400..500).contains(&status) && codes.contains(&code), "{query:.200}: {answer:.400}");
    assert_eq!(service.sql("SELECT 1", None), json!([[1]]));
    answer["detail"].as_str().unwrap().to_owned()
}

fn chains(links: usize) -> Vec<(&'static str, String)> {
    let repeated = |part: &str, between: &str| vec![part; links].join(between);
    let steps: Vec<String> =
        (1..links).map(|n| format!("c{n} AS (SELECT a + 1 AS a FROM c{})", n - 1)).collect();
    vec![
        ("plus", format!("SELECT {}", repeated("1", "+"))),
        ("union", repeated("SELECT 1", " UNION ALL ")),
        (
            "with",
            format!(
                "WITH c0 AS (SELECT 1 AS a), {} SELECT a FROM c{}",
                steps.join(", "),
                links - 1
            ),
        ),
        (
            "type",
            format!(
                "SELECT arrow_cast(NULL, '{}Utf8{}')",
                "List(".repeat(links),
                ")".repeat(links)
            ),
        ),
    ]
}

#[test]
fn statements_that_nest_deep_are_refused_and_long_lists_of_or_are_answered() {
    let work = Work::new().with_demo_data(60);
    let widths: Vec<String> = (0..3000).map(|width| format!("width = {width}")).collect();
    let honest = format!("SELECT count(*) > 0 AS some FROM meta WHERE {}", widths.join(" OR "));
    work.write("honest.sql", &honest);
    let ran =
        work.diptych(&["sql", "--file", "honest.sql", "--dataset", "data", "--format", "csv"]).ok();
    assert_eq!(ran.stdout, "some\ntrue\n");
    // An honest query is not to fail for other work on this machine.
    let service = served(&work, 60);
    assert_eq!(service.sql(&honest, Some("pairs")), json!([[true]]));
    for (what, query) in chains(3000) {
        let detail = fails(&service, &query, &["wrong_statement"]);
        messages::check("http", "statement_nests_too_deep", &detail);
        work.write("deep.sql", &query);
        let ran = work.diptych(&["sql", "--file", "deep.sql", "--dataset", "data"]);
        ran.fails(1, "statement_nests_too_deep");
        eprintln!("{what}");
    }
    for (_, query) in chains(200) {
        // As deep as may be. A type is refused for another reason: a result may not have it.
        let (status, answer) = ask(&service, &query);
        assert!(status == 200 || answer["code"] == "wrong_statement", "{query:.100}: {answer}");
    }
    assert_eq!(service.leaves(), Some(0));
}

#[test]
fn queries_that_want_more_memory_or_time_than_they_may_end_alone() {
    let work = Work::new().with_demo_data(60);
    let service = served(&work, LONGEST);
    for greedy in [
        "SELECT generate_series(0, 3000000000)",
        "SELECT repeat(repeat('a', 100000), 100000)",
        "SELECT length(concat(repeat('a', 1000000000), repeat('b', 1000000000)))",
        "SELECT regexp_replace(repeat('a', 10000000), 'a', repeat('b', 1000), 'g')",
        "SELECT token_count(repeat('a b ', 100000000))",
        "SELECT array_agg(value) FROM generate_series(0, 3000000000)",
    ] {
        fails(&service, greedy, &["out_of_memory", "query_failed", "took_too_long"]);
    }
    let slow = "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))";
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (status, answer) = ask(&service, slow);
                assert_eq!(status, 422, "{answer}");
            });
        }
    });
    let detail = fails(&service, slow, &["took_too_long"]);
    messages::check_without_figures("http", "query_takes_too_long", &detail);
    let nested = (0..40).fold("1".to_owned(), |inner, _| format!("(SELECT {inner} + 1)"));
    fails(
        &service,
        &format!("SELECT {nested}"),
        &["wrong_statement", "query_failed", "took_too_long"],
    );
    eventually(PATIENCE, "the processes of queries to be gone", || {
        (workers(&service) <= 2).then_some(())
    });
    assert_eq!(service.leaves(), Some(0));
}

/// Returns the number of processes that compute queries.
fn workers(service: &Service) -> usize {
    // Children belong to the thread that started them.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", service.process_id())).unwrap();
    let mut pids: Vec<String> = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    pids.sort();
    pids.dedup();
    pids.len()
}

/// A function and the types of its arguments, if they are known.
type Signature = (String, Option<Vec<String>>);

/// Calls existing functions with arguments of all sizes, nested. `DIPTYCH_TEST_QUERIES` sets the
/// number of queries.
#[test]
fn random_calls_of_functions_hurt_nobody() {
    let work = Work::new().with_demo_data(60);
    let service = served(&work, LONGEST);
    let count =
        std::env::var("DIPTYCH_TEST_QUERIES").map_or(60, |count| count.parse::<u32>().unwrap());
    let functions = signatures(&service);
    assert!(functions.len() > 300, "{functions:?}");
    let mut random = StdRng::seed_from_u64(seed());
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..count {
        let query = random_query(&mut random, &functions);
        let (status, answer) = ask(&service, &query);
        // A bug of a function is one query's, and said so.
        let bug = status == 500 && answer["code"] == "query_bug";
        let well = status == 200 || (400..500).contains(&status) || bug;
        assert!(well, "{query:.2000}: {status} {answer}");
        *statuses.entry(status).or_default() += 1;
    }
    eprintln!("{count} queries: {statuses:?}");
    assert_eq!(service.sql("SELECT 1", None), json!([[1]]));
    assert_eq!(service.leaves(), Some(0));
}

fn signatures(service: &Service) -> Vec<Signature> {
    let known = "SELECT specific_name, array_agg(data_type ORDER BY ordinal_position) FROM information_schema.parameters \
                 WHERE parameter_mode = 'IN' GROUP BY specific_name, rid ORDER BY 1, rid";
    let unknown = "SELECT DISTINCT routine_name, NULL FROM information_schema.routines WHERE function_type = 'SCALAR' AND routine_name \
                   NOT IN (SELECT specific_name FROM information_schema.parameters WHERE parameter_mode = 'IN') ORDER BY 1";
    let rows = [known, unknown].map(|query| service.sql(query, Some("pairs")));
    let rows = rows.iter().flat_map(|rows| rows.as_array().unwrap());
    let signature = |row: &Value| {
        let types = row[1].as_array().map(|types| {
            types.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        });
        (row[0].as_str().unwrap().to_owned(), types)
    };
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    rows.map(signature).filter(|(name, _)| plain(name)).collect()
}

fn random_query(random: &mut StdRng, functions: &[Signature]) -> String {
    let call = random_call(random, functions, 0);
    match random.random_range(0..6) {
        0 => format!("SELECT {call} FROM meta ORDER BY 1 LIMIT 5"),
        1 => format!("SELECT count(*) FROM meta WHERE {call} IS NOT NULL"),
        2 => format!("SELECT {call} AS a, count(*) FROM meta GROUP BY 1"),
        3 => format!("SELECT array_agg({call}) FROM meta a, meta b"),
        _ => format!("SELECT {call}"),
    }
}

fn random_call(random: &mut StdRng, functions: &[Signature], depth: u32) -> String {
    let (name, types) = functions.choose(random).unwrap();
    let unknown: Vec<String> = (0..random.random_range(0..4)).map(|_| "any".to_owned()).collect();
    let types = types.as_ref().unwrap_or(&unknown);
    let arguments: Vec<String> =
        types.iter().map(|wanted| random_argument(random, functions, wanted, depth)).collect();
    format!("{name}({})", arguments.join(", "))
}

fn random_argument(
    random: &mut StdRng,
    functions: &[Signature],
    wanted: &str,
    depth: u32,
) -> String {
    if depth < 3 && random.random_ratio(1, 4) {
        return random_call(random, functions, depth + 1);
    }
    let size = 10_u64.pow(random.random_range(0..10)) * random.random_range(1..10);
    let texts = ["a", "a b ", "ä", "(a+)+", "[[1,2]]", "2024-01-01", "%Y", "List(Int8)"];
    let text = *texts.choose(random).unwrap();
    let of_text =
        [format!("repeat('{text}', {size})"), format!("'{text}'"), "caption".into(), "key".into()];
    let of_number = [size.to_string(), format!("-{size}"), "width".into(), "1".into()];
    let of_time = ["now()".into(), format!("to_timestamp({size})"), "date '2024-02-29'".into()];
    let of_rest = [
        format!("make_array({size}, 2, NULL)"),
        format!("range(0, {size})"),
        format!("array_repeat('{text}', {size})"),
        "INTERVAL '1 month'".into(),
        "uid".into(),
        "NULL".into(),
        "true".into(),
    ];
    let kinds: [&[String]; 4] = [&of_text, &of_number, &of_time, &of_rest];
    let kind = match wanted {
        "String" | "Binary" => &of_text[..],
        _ if wanted.starts_with("Timestamp") || wanted.starts_with("Date") => &of_time,
        _ if wanted.contains("nt")
            && wanted.starts_with(['I', 'U'])
            && !wanted.starts_with("Interval") =>
        {
            &of_number
        }
        _ if wanted.starts_with("Float") || wanted.starts_with("Decimal") => &of_number,
        _ => kinds.choose(random).unwrap(),
    };
    kind.choose(random).unwrap().clone()
}
