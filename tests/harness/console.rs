//! What tests read on the console.

use std::time::{Duration, Instant};
use tokio_postgres::{Client, SimpleQueryMessage};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// The rows of a SHOW, as (column, value) pairs.
pub async fn show(console: &Client, what: &str) -> Vec<Vec<(String, String)>> {
    let answer = console.simple_query(&format!("SHOW {what}")).await.unwrap();
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let pair = |(i, c): (usize, &tokio_postgres::SimpleColumn)| {
                (c.name().to_owned(), row.get(i).unwrap_or("<null>").to_owned())
            };
            Some(row.columns().iter().enumerate().map(pair).collect())
        }
        _ => None,
    };
    answer.into_iter().filter_map(row).collect()
}

pub fn cell<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    row.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str()).unwrap_or_else(|| {
        panic!("no column {column} in {row:?}");
    })
}

pub fn code(e: &tokio_postgres::Error) -> String {
    e.code().map(|c| c.code().to_owned()).unwrap_or_else(|| panic!("no SQLSTATE: {e:?}"))
}

pub async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
