//! Chance with a seed, and messages that are drawn by it.

use super::wire::Wire;

/// splitmix64
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// What a run that is repeated has in its environment.
pub fn asked(names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// One message.
#[derive(Debug, Clone)]
pub enum Op {
    Query(String),
    /// refused by pgweir; the twin is told something that fails at the same place
    Refused,
    RefusedExtended,
    Parse(String, String),
    Bind(String, String, Vec<Option<String>>),
    DescribePortal(String),
    DescribeStatement(String),
    Execute(String, i32),
    CloseStatement(String),
    ClosePortal(String),
    Flush,
    Sync,
    CopyData(String),
    CopyDone,
    CopyFail,
}

/// A statement over all shards.
const REFUSED: &str = "SELECT count(*) FROM accounts";

impl Op {
    pub fn put(&self, w: &mut Wire, oracle: bool) {
        match self {
            Op::Query(sql) => w.q(sql),
            Op::Refused if oracle => w.q("DO $$ BEGIN RAISE feature_not_supported; END $$"),
            Op::Refused => w.q(REFUSED),
            Op::RefusedExtended if oracle => w.p("", "SELECT $1::int", &[]).b("", "", &[Some("x")]).e("", 0),
            Op::RefusedExtended => w.p("", REFUSED, &[]).b("", "", &[]).e("", 0),
            Op::Parse(name, sql) => w.p(name, sql, &[]),
            Op::Bind(portal, name, values) => {
                let values: Vec<_> = values.iter().map(|v| v.as_deref()).collect();
                w.b(portal, name, &values)
            }
            Op::DescribePortal(name) => w.dp(name),
            Op::DescribeStatement(name) => w.ds(name),
            Op::Execute(portal, rows) => w.e(portal, *rows),
            Op::CloseStatement(name) => w.cs(name),
            Op::ClosePortal(name) => w.cp(name),
            Op::Flush => w.h(),
            Op::Sync => w.s(),
            Op::CopyData(data) => w.copy(data),
            Op::CopyDone => w.copy_done(),
            Op::CopyFail => w.copy_fail("no more"),
        };
    }
    /// How many ReadyForQuery answer it.
    pub fn answers(&self) -> usize {
        usize::from(matches!(self, Op::Query(_) | Op::Refused | Op::Sync))
    }
}
