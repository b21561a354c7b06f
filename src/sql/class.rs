//! What a statement is, from its first words. Never wrong, possibly vague: `Other` is an answer.

/// Filled by `classify`. Names are folded as Postgres folds identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// only comments and space
    Empty,
    /// SELECT, VALUES, TABLE, WITH (also a WITH that writes: analysis tells), parenthesised queries
    Query,
    /// SELECT ... INTO, CREATE TABLE AS is `Ddl`
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Begin(Modes),
    /// COMMIT / END, with AND CHAIN
    Commit {
        chain: bool,
    },
    /// ROLLBACK / ABORT, with AND CHAIN
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    PrepareTransaction,
    /// COMMIT PREPARED / ROLLBACK PREPARED
    FinishPrepared,
    /// SET [SESSION|LOCAL] name TO value; `value` is the text after TO or =, verbatim
    Set {
        scope: SetScope,
        name: String,
        value: String,
    },
    /// SET TRANSACTION ..., SET SESSION CHARACTERISTICS ...: text verbatim
    SetTransaction {
        session: bool,
    },
    /// RESET name / RESET ALL (None)
    Reset(Option<String>),
    Show(String),
    /// DISCARD ALL | PLANS | SEQUENCES | TEMP, in upper case
    Discard(String),
    /// SQL-level prepared statements
    Prepare(String),
    Execute(String),
    /// DEALLOCATE name | ALL (None)
    Deallocate(Option<String>),
    /// EXPLAIN: byte offset where the inner statement begins, and whether it runs it (ANALYZE)
    Explain {
        inner: u32,
        analyze: bool,
    },
    DeclareCursor {
        name: String,
        hold: bool,
    },
    /// FETCH / MOVE
    Fetch,
    CloseCursor,
    Listen(String),
    Unlisten(Option<String>),
    Notify,
    Lock,
    Truncate,
    /// CREATE, ALTER, DROP, GRANT, REVOKE, COMMENT, SECURITY LABEL, REASSIGN, IMPORT, REFRESH ...; `temp` for CREATE TEMP
    Ddl {
        temp: bool,
    },
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT
    Maintenance,
    Call,
    Do,
    Load,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    Session,
    Local,
}

/// What BEGIN / START TRANSACTION asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
    pub deferrable: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}
