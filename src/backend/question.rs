//! pgweir's own questions to servers: catalogs, directory tables. Answers are collected whole and are bounded;
//! what clients ask goes another way.

use crate::backend::link::Link;
use crate::error::{Error, Result, SqlState};
use crate::wire::backend::DataRow;
use crate::wire::frontend;
use bytes::Bytes;

/// Most bytes that the answer to one question may have: a catalog of 100,000 tables stays below.
const MAX_ANSWER: usize = 512 << 20;
/// Largest single row, in bytes.
const MAX_ROW: usize = 64 << 20;

/// A row as it came, in text.
#[derive(Debug, Clone)]
pub struct Row(Bytes);

impl Row {
    /// Its cells; `None` is NULL. Errors: another number of cells, or text that is not UTF-8.
    pub fn cells<const N: usize>(&self) -> Result<[Option<&str>; N]> {
        let strange = || Error::internal("a server's answer has another shape than was asked for");
        let row = DataRow::parse(&self.0).map_err(|_| strange())?;
        let mut cells = [None; N];
        let mut count = 0;
        for (i, cell) in row.iter().enumerate() {
            let place = cells.get_mut(i).ok_or_else(strange)?;
            *place = cell.map(std::str::from_utf8).transpose().map_err(|_| strange())?;
            count += 1;
        }
        if count == N { Ok(cells) } else { Err(strange()) }
    }
}

impl Link {
    /// Runs statements by the simple protocol: the rows of each.
    ///
    /// Errors: the server's own, with the shard named. What was open stays open: such a link is not clean.
    pub async fn script(&mut self, statements: &str) -> Result<Vec<Vec<Row>>> {
        sound(statements)?;
        frontend::query(&mut self.output, statements.as_bytes());
        self.answers().await
    }

    /// Runs one statement with parameters in text; their types are the server's to find out.
    ///
    /// Errors: the server's own, with the shard named.
    pub async fn rows(&mut self, statement: &str, values: &[Option<&[u8]>]) -> Result<Vec<Row>> {
        sound(statement)?;
        frontend::parse(&mut self.output, b"", statement.as_bytes(), &[]);
        frontend::bind(&mut self.output, b"", b"", &[], values, &[]);
        frontend::execute(&mut self.output, b"", 0);
        frontend::sync(&mut self.output);
        Ok(self.answers().await?.pop().unwrap_or_default())
    }

    /// What comes up to ReadyForQuery.
    async fn answers(&mut self) -> Result<Vec<Vec<Row>>> {
        self.outstanding += 1;
        self.flush().await?;
        let mut all = Vec::new();
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut failure = None;
        loop {
            let message = self.message(MAX_ROW).await?;
            match message.tag {
                b'D' => {
                    bytes += message.body.len();
                    if bytes > MAX_ANSWER {
                        self.broken = true;
                        return Err(Error::shard(
                            SqlState::PROGRAM_LIMIT_EXCEEDED,
                            &*self.shard_name,
                            format!(
                                "the answer of shard \"{}\" is larger than {MAX_ANSWER} bytes",
                                self.shard_name
                            ),
                        ));
                    }
                    rows.push(Row(message.body));
                }
                b'C' | b'I' => all.push(std::mem::take(&mut rows)),
                b'E' => failure = failure.or(Some(self.server_error(&message.body))),
                b'S' => self.learn_parameter(&message.body)?,
                b'Z' => {
                    self.status = message.body.first().copied().unwrap_or(0);
                    self.outstanding -= 1;
                    return failure.map_or(Ok(all), Err);
                }
                // ParseComplete, BindComplete, NoData, RowDescription, notices; notifications of a listener that begins
                b'1' | b'2' | b'n' | b'T' | b'N' | b'A' => {}
                tag => {
                    return Err(self.nonsense(format_args!("a message of type {:?}", char::from(tag))));
                }
            }
        }
    }
}

/// Names from a file can hold anything; a NUL would end the statement early.
fn sound(sql: &str) -> Result<()> {
    match sql.contains('\0') {
        true => Err(Error::config("a name in a statement of pgweir's own holds a NUL")),
        false => Ok(()),
    }
}
