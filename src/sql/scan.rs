//! The byte scanner: literals, parameters, statement boundaries, hints, fingerprint.

use crate::error::{Error, Result, SqlState};
use crate::sql::lex::{Kind, Lexer, NAME_BYTES, Token};
use memchr::memmem;
use std::borrow::Cow;
use std::ops::Range;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What kind of literal stands there. Part of the fingerprint: `5`, `5000000000`, `5.0`, `'5'` differ (HAZARDS 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralClass {
    /// fits int4
    Int4,
    /// fits int8
    Int8,
    /// an integer too large for int8, or with a point or an exponent
    Numeric,
    /// '...' (standard_conforming_strings on): span includes the quotes
    String,
    /// E'...', or '...' with standard_conforming_strings off
    Escape,
    /// $tag$...$tag$
    Dollar,
    /// B'...'
    Bit,
    /// X'...'
    Hex,
}

impl LiteralClass {
    /// A literal of the same class, which stands for all of them in the normalised text.
    fn placeholder(self) -> &'static [u8] {
        match self {
            LiteralClass::Int4 => b"0",
            LiteralClass::Int8 => b"2147483648",
            LiteralClass::Numeric => b".0",
            LiteralClass::String => b"''",
            LiteralClass::Escape => b"E''",
            LiteralClass::Dollar => b"$$$$",
            LiteralClass::Bit => b"B''",
            LiteralClass::Hex => b"X''",
        }
    }
    pub fn is_number(self) -> bool {
        matches!(self, LiteralClass::Int4 | LiteralClass::Int8 | LiteralClass::Numeric)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// bytes of the statement's text, quotes included
    pub span: Range<u32>,
    pub class: LiteralClass,
}

impl Literal {
    /// What a string literal says, see [`crate::sql::lex::string_value`]; for numbers their digits as written.
    pub fn value<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let raw = text.get(self.span.start as usize..self.span.end as usize)?;
        if self.class.is_number() {
            return Some(Cow::Borrowed(raw));
        }
        crate::sql::lex::string_value(raw, self.class)
    }
}

/// One statement of a (possibly multi-statement) text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// bytes from the first token to the last, without the semicolon
    pub span: Range<u32>,
    /// indexes into `Scan::literals`
    pub literals: Range<u32>,
    /// bytes of `Scan::normalized`
    pub normalized: Range<u32>,
    /// the word INTO is in it; `classify` then looks closer, because SELECT ... INTO makes a table
    pub into: bool,
}

/// `/* pgweir: shard=s1, key=42, role=replica */` in front of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    pub shard: Option<String>,
    /// raw text of the value, quotes removed; several for composite keys
    pub key: Vec<String>,
    pub keyspace: Option<String>,
    pub role: Option<String>,
    /// the hint comment cannot be read: what is wrong with it. The statement must be refused, because its
    /// author meant it to go somewhere else.
    pub error: Option<String>,
}

impl Hints {
    pub const NONE: Hints = Hints { shard: None, key: Vec::new(), keyspace: None, role: None, error: None };

    pub fn is_empty(&self) -> bool {
        *self == Hints::default()
    }
}

/// Everything the scanner saw. Reused between statements: `clear` keeps the allocations.
#[derive(Debug, Default)]
pub struct Scan {
    /// Literals replaced by a literal of their class, comments and space folded, keywords and unquoted
    /// identifiers in lower case. Bytes, because a client may speak another encoding than UTF-8.
    pub normalized: Vec<u8>,
    pub literals: Vec<Literal>,
    pub pieces: Vec<Piece>,
    /// highest $n
    pub max_param: u16,
    /// from comments before the first token of the text
    pub hints: Hints,
    /// deepest nesting of parentheses, brackets, CASE, and joins that wait for their condition
    pub depth: u32,
    /// longest run of operators, UNION arms, `::` or `[` that would make a left-deep tree
    pub chain: u32,
    /// set when the text has what the parser would misread silently (FACTS.md B2.3): U&, two adjacent
    /// string tokens, `ident 'string'`, 0x/0o/0b or underscored numbers, `isnull`/`notnull`, a parameter glued to an identifier
    pub distrust: Option<&'static str>,
    /// open parentheses and the like, with what they interrupt
    nesting: Vec<Level>,
}

/// What a JOIN within a JOIN adds to the depth: the parser takes more stack for it than for a parenthesis.
const JOIN_DEPTH: u32 = 8;
/// Nesting beyond this is counted but not remembered; no statement that deep is ever parsed.
const REMEMBERED_LEVELS: usize = 4096;
/// `clear` gives larger buffers back, so that an idle session does not hold on to a bulk INSERT.
const KEPT_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Parenthesis,
    Bracket,
    Case,
    /// BEGIN ATOMIC
    Atomic,
}

/// Counters of one nesting level.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// operators since the last comma
    operators: u32,
    /// UNION, INTERSECT, EXCEPT, JOIN; no comma ends these
    arms: u32,
    /// JOINs whose ON or USING has not come: `a JOIN b JOIN c ON .. ON ..` nests without a parenthesis
    pending: u32,
    /// the same for all levels around this one
    pending_around: u32,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    opener: Opener,
    outer: Chain,
}

/// What the words at the start of a statement may still become: CREATE [OR REPLACE] FUNCTION | PROCEDURE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    Start,
    Create,
    Or,
    Replace,
    Routine,
    Plain,
}

/// What came before a token, as far as it matters for the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Word,
    As,
    Begin,
    Atomic,
    Quoted,
    String,
    National,
    Dot,
    Close,
    Semicolon,
    Other,
}

impl Scan {
    pub const fn new() -> Scan {
        Scan {
            normalized: Vec::new(),
            literals: Vec::new(),
            pieces: Vec::new(),
            max_param: 0,
            hints: Hints::NONE,
            depth: 0,
            chain: 0,
            distrust: None,
            nesting: Vec::new(),
        }
    }

    /// What it has allocated, in bytes.
    pub fn bytes(&self) -> usize {
        self.normalized.capacity()
            + self.literals.capacity() * size_of::<Literal>()
            + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Forgets the text, keeps the memory (up to a limit).
    pub fn clear(&mut self) {
        self.normalized.clear();
        self.literals.clear();
        self.pieces.clear();
        self.nesting.clear();
        if self.normalized.capacity() > KEPT_BYTES {
            self.normalized = Vec::new();
        }
        if self.literals.capacity() * size_of::<Literal>() > KEPT_BYTES {
            self.literals = Vec::new();
        }
        if self.pieces.capacity() * size_of::<Piece>() > KEPT_BYTES {
            self.pieces = Vec::new();
        }
        self.max_param = 0;
        if !self.hints.is_empty() {
            self.hints = Hints::default();
        }
        self.depth = 0;
        self.chain = 0;
        self.distrust = None;
    }

    /// Scans `text`. Errors are Postgres's own for a string, comment or identifier that does not end (42601,
    /// with its position); after an error the scan is empty.
    pub fn scan(&mut self, text: &str, standard_conforming_strings: bool) -> Result<()> {
        self.scan_bytes(text.as_bytes(), standard_conforming_strings)
    }

    /// The same for a text in any encoding whose multi-byte characters have no byte below 0x80: see
    /// [`scannable_encoding`].
    pub fn scan_bytes(&mut self, text: &[u8], standard_conforming_strings: bool) -> Result<()> {
        self.clear();
        if text.len() > i32::MAX as usize {
            return Err(Error::limit(SqlState::PROGRAM_LIMIT_EXCEEDED, "statement text is too long"));
        }
        let mut out = std::mem::take(&mut self.normalized);
        let mut nesting = std::mem::take(&mut self.nesting);
        // a token of n bytes becomes at most n bytes and a space
        out.resize(text.len() * 2 + 2, 0);
        let run = Run {
            text,
            lexer: Lexer::of_bytes(text, standard_conforming_strings),
            scan: self,
            out: &mut out,
            used: 0,
            nesting: &mut nesting,
            unremembered: 0,
            level: Chain::default(),
            before: Before::Nothing,
            before_word: 0..0,
            glue: true,
            lead: Lead::Start,
            piece: Piece::default(),
        };
        let done = run.all();
        self.nesting = nesting;
        match done {
            Ok(used) => {
                out.truncate(used);
                self.normalized = out;
                Ok(())
            }
            Err(open) => {
                self.normalized = out;
                self.clear();
                Err(open.error(text))
            }
        }
    }

    /// The normalised text of one statement.
    pub fn normalized_of(&self, piece: &Piece) -> &[u8] {
        self.normalized.get(piece.normalized.start as usize..piece.normalized.end as usize).unwrap_or(&[])
    }

    /// The normalised text of one statement, to be shown.
    pub fn normalized_text(&self, piece: &Piece) -> Cow<'_, str> {
        String::from_utf8_lossy(self.normalized_of(piece))
    }

    /// xxh3-128 of the statement's normalised text. Not a proof against hostile texts: compare the normalised
    /// text on a hit.
    pub fn fingerprint(&self, piece: &Piece) -> u128 {
        xxh3_128(self.normalized_of(piece))
    }

    /// The same with more that the meaning depends on (search path, role ...).
    pub fn fingerprint_with(&self, piece: &Piece, more: &[u8]) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(more);
        hash.update(&(more.len() as u64).to_le_bytes());
        hash.update(self.normalized_of(piece));
        hash.digest128()
    }
}

/// Can texts in this client_encoding be scanned as bytes? False for the encodings whose characters may hold
/// bytes that look like a backslash or a quote.
pub fn scannable_encoding(client_encoding: &str) -> bool {
    let name: String =
        client_encoding.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    !matches!(
        name.as_str(),
        "SJIS"
            | "MSKANJI"
            | "SHIFTJIS"
            | "WIN932"
            | "WINDOWS932"
            | "SHIFTJIS2004"
            | "BIG5"
            | "WIN950"
            | "WINDOWS950"
            | "GBK"
            | "WIN936"
            | "WINDOWS936"
            | "UHC"
            | "WIN949"
            | "WINDOWS949"
            | "GB18030"
            | "JOHAB"
    )
}

/// One pass over a text.
struct Run<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    scan: &'a mut Scan,
    /// longer than needed; `used` bytes are written
    out: &'a mut [u8],
    used: usize,
    nesting: &'a mut Vec<Level>,
    /// levels opened beyond REMEMBERED_LEVELS
    unremembered: u32,
    level: Chain,
    before: Before,
    /// where the last word is in `out`
    before_word: Range<usize>,
    /// the next token needs no space in front
    glue: bool,
    lead: Lead,
    piece: Piece,
}

impl Run<'_> {
    fn all(mut self) -> Result<usize, crate::sql::lex::Unterminated> {
        let mut first = true;
        while let Some(token) = self.lexer.next_token()? {
            if first {
                first = false;
                if token.start > 0 {
                    self.scan.hints = hints_before(&self.text[..token.start as usize]);
                }
            }
            self.token(token);
        }
        self.end_piece();
        Ok(self.used)
    }

    #[inline]
    fn token(&mut self, token: Token) {
        let (start, end) = (token.start as usize, token.end as usize);
        if token.kind == Kind::Semicolon && self.splits() {
            self.end_piece();
            // between the pieces, for the eye
            self.mark(b';');
            self.piece.normalized.start = self.used as u32;
            return;
        }
        if self.before == Before::Nothing {
            self.piece.span.start = token.start;
        }
        self.piece.span.end = token.end;
        if self.before == Before::Dot {
            // only these can stand behind a dot without becoming part of something else
            self.glue = matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
                || (token.kind == Kind::Operator && self.text[start] == b'*');
        }
        let mut before = Before::Other;
        match token.kind {
            Kind::Word => {
                let from = self.word(start, end);
                before = self.word_means(from);
                self.before_word = from..self.used;
            }
            Kind::Literal(class) => {
                self.scan.literals.push(Literal { span: token.start..token.end, class });
                // without a prefix it stays so, or N would lose its string with standard_conforming_strings off
                self.put(if self.text[start] == b'\'' { b"''" } else { class.placeholder() });
                if class.is_number() {
                    if self.lexer.modern_number {
                        self.distrust("a number in hexadecimal, octal, binary or with underscores");
                    }
                } else {
                    self.string_after(class);
                    before = Before::String;
                }
            }
            Kind::Operator => {
                self.put(&self.text[start..end]);
                self.level.operators += 1;
                if end - start > 1 && parser_splits(&self.text[start..end]) {
                    self.distrust("an operator that the parser reads differently");
                }
            }
            Kind::Open => {
                self.mark(b'(');
                self.open(Opener::Parenthesis);
            }
            Kind::Close => {
                self.mark(b')');
                self.close(Opener::Parenthesis);
                before = Before::Close;
            }
            Kind::OpenBracket => {
                self.mark(b'[');
                self.level.operators += 1;
                self.open(Opener::Bracket);
            }
            Kind::CloseBracket => {
                self.mark(b']');
                self.close(Opener::Bracket);
                before = Before::Close;
            }
            Kind::Comma => {
                self.mark(b',');
                self.note_chain();
                self.level.operators = 0;
                self.level.pending = 0;
            }
            Kind::Semicolon => {
                self.mark(b';');
                self.note_chain();
                self.level = Chain::default();
                before = Before::Semicolon;
            }
            Kind::Dot => {
                // glued to names only: next to a digit it would be part of a number
                self.glue |=
                    matches!(self.before, Before::Word | Before::Quoted | Before::Close | Before::As);
                self.put(b".");
                self.glue = true;
                before = Before::Dot;
            }
            Kind::Param => {
                self.put(&self.text[start..end]);
                self.param(start, end);
            }
            Kind::Quoted => {
                self.put(&self.text[start..end]);
                if end - start > NAME_BYTES {
                    self.distrust("an identifier that Postgres may cut");
                }
                before = Before::Quoted;
            }
            Kind::UnicodeQuoted | Kind::UnicodeString => {
                self.put(&self.text[start..end]);
                self.distrust("Unicode escapes (U&)");
            }
            Kind::National => {
                self.put(b"N");
                self.glue = true;
                self.distrust("a national character string (N'...')");
                before = Before::National;
            }
            Kind::Colon => self.put(b":"),
            Kind::Junk => {
                self.put(&self.text[start..end]);
                self.distrust("something that is not SQL");
            }
        }
        if self.before == Before::Dot && matches!(token.kind, Kind::Literal(_) | Kind::Junk | Kind::Param) {
            self.distrust("something that is not SQL");
        }
        self.before = before;
    }

    /// Does a semicolon here end a statement? Not in parentheses (CREATE RULE), not in a body (BEGIN ATOMIC).
    /// A CASE that is open was a column's label.
    fn splits(&mut self) -> bool {
        while let Some(Level { opener: Opener::Case, outer }) = self.nesting.last().copied() {
            self.note_chain();
            self.level = outer;
            self.nesting.pop();
        }
        self.nesting.is_empty() && self.unremembered == 0
    }

    fn end_piece(&mut self) {
        self.note_chain();
        self.level = Chain::default();
        self.nesting.clear();
        self.unremembered = 0;
        self.piece.literals.end = self.scan.literals.len() as u32;
        self.piece.normalized.end = self.used as u32;
        if self.before != Before::Nothing {
            self.scan.pieces.push(self.piece.clone());
        }
        self.piece.literals.start = self.piece.literals.end;
        self.piece.normalized.start = self.piece.normalized.end;
        self.piece.into = false;
        self.before = Before::Nothing;
        self.lead = Lead::Start;
        self.glue = true;
    }

    /// Writes a token, with a space in front where one is needed.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if !self.glue {
            self.out[self.used] = b' ';
            self.used += 1;
        }
        self.glue = false;
        let end = self.used + bytes.len();
        self.out[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    /// Writes punctuation that never needs space around it.
    #[inline]
    fn mark(&mut self, byte: u8) {
        self.out[self.used] = byte;
        self.used += 1;
        self.glue = true;
    }

    /// Writes a word in lower case; returns where it begins in `out`.
    #[inline]
    fn word(&mut self, start: usize, end: usize) -> usize {
        if !self.glue {
            self.out[self.used] = b' ';
            self.used += 1;
        }
        self.glue = false;
        let from = self.used;
        let length = end - start;
        let to = &mut self.out[from..from + length];
        for (to, b) in to.iter_mut().zip(&self.text[start..end]) {
            *to = b.to_ascii_lowercase();
        }
        self.used = from + length;
        if length > NAME_BYTES {
            self.distrust("an identifier that Postgres may cut");
        }
        from
    }

    /// What a word does to nesting and chains.
    #[inline]
    fn word_means(&mut self, from: usize) -> Before {
        let word = &self.out[from..self.used];
        let lead = self.lead;
        if lead != Lead::Plain && lead != Lead::Routine {
            self.lead = match (lead, word) {
                (Lead::Start, b"create") => Lead::Create,
                (Lead::Create, b"or") => Lead::Or,
                (Lead::Or, b"replace") => Lead::Replace,
                (Lead::Create | Lead::Replace, b"function" | b"procedure") => Lead::Routine,
                _ => Lead::Plain,
            };
        }
        // after a dot or AS any word is a name
        if word.len() > 9 || word.len() < 2 || matches!(self.before, Before::Dot | Before::As) {
            return Before::Word;
        }
        match word {
            b"and" | b"or" | b"not" | b"is" | b"in" | b"at" | b"like" | b"ilike" | b"similar"
            | b"between" | b"collate" | b"overlaps" => self.level.operators += 1,
            b"union" | b"intersect" | b"except" => {
                self.note_chain();
                self.level.arms += 1;
                self.level.operators = 0;
            }
            b"on" | b"using" => self.level.pending = self.level.pending.saturating_sub(1),
            b"join" => {
                self.level.arms += 1;
                let before = &self.out[self.before_word.clone()];
                if self.before == Before::Word && !matches!(before, b"cross" | b"natural") {
                    self.level.pending += 1;
                    let joins = self.level.pending_around + self.level.pending;
                    let nested = self.nesting.len() as u32 + joins * JOIN_DEPTH;
                    self.scan.depth = self.scan.depth.max(nested);
                }
                // an alias to Postgres, a kind of join to the parser
                if self.before == Before::Word
                    && matches!(&self.out[self.before_word.clone()], b"semi" | b"anti" | b"asof" | b"global")
                {
                    self.distrust("a table called like a kind of join");
                }
            }
            b"when" | b"then" | b"else" => {
                self.note_chain();
                self.level.operators = 0;
            }
            b"isnull" | b"notnull" => {
                self.level.operators += 1;
                self.distrust("ISNULL or NOTNULL");
            }
            b"as" => return Before::As,
            b"into" => self.piece.into = true,
            b"case" => self.open(Opener::Case),
            b"end" => match self.nesting.last().map(|l| l.opener) {
                Some(Opener::Case) => self.close(Opener::Case),
                Some(Opener::Atomic) if matches!(self.before, Before::Semicolon | Before::Atomic) => {
                    self.close(Opener::Atomic)
                }
                _ => {}
            },
            b"begin" => return Before::Begin,
            b"atomic"
                if self.before == Before::Begin && self.lead == Lead::Routine && self.nesting.is_empty() =>
            {
                self.open(Opener::Atomic);
                return Before::Atomic;
            }
            _ => {}
        }
        Before::Word
    }

    fn param(&mut self, start: usize, end: usize) {
        let mut number: u32 = 0;
        for b in &self.text[start + 1..end] {
            number = number.saturating_mul(10).saturating_add(u32::from(b - b'0'));
        }
        let number = u16::try_from(number).unwrap_or_else(|_| {
            self.distrust("a parameter number beyond 65535");
            u16::MAX
        });
        self.scan.max_param = self.scan.max_param.max(number);
    }

    /// A string may make what stands before it mean something else.
    #[inline]
    fn string_after(&mut self, class: LiteralClass) {
        if self.lexer.continued && class != LiteralClass::Dollar {
            self.distrust("a string continued on another line");
        }
        match self.before {
            Before::String => self.distrust("two strings side by side"),
            Before::Close | Before::Quoted => self.distrust("a type name before a string"),
            Before::Word if !string_may_follow(&self.out[self.before_word.clone()]) => {
                self.distrust("a type name before a string");
            }
            _ => {}
        }
    }

    fn open(&mut self, opener: Opener) {
        if self.nesting.len() < REMEMBERED_LEVELS {
            self.nesting.push(Level { opener, outer: self.level });
        } else {
            self.unremembered += 1;
        }
        self.level =
            Chain { pending_around: self.level.pending_around + self.level.pending, ..Chain::default() };
        self.scan.depth = self.scan.depth.max(self.nesting.len() as u32 + self.unremembered);
    }

    fn close(&mut self, opener: Opener) {
        self.note_chain();
        if self.unremembered > 0 {
            self.unremembered -= 1;
            self.level = Chain::default();
            return;
        }
        // CASEs that are open inside were labels
        while let Some(level) = self.nesting.last().copied() {
            if level.opener != opener && level.opener != Opener::Case {
                return;
            }
            self.nesting.pop();
            self.level = level.outer;
            if level.opener == opener {
                return;
            }
        }
    }

    #[inline]
    fn note_chain(&mut self) {
        self.scan.chain = self.scan.chain.max(self.level.operators).max(self.level.arms);
    }

    #[cold]
    fn distrust(&mut self, reason: &'static str) {
        self.scan.distrust.get_or_insert(reason);
    }
}

/// Would the parser cut this operator (of two characters or more) into several, or read it as another? Those
/// of Postgres itself are fine, and so are others that begin in a way that the parser takes whole.
fn parser_splits(operator: &[u8]) -> bool {
    match operator {
        b"::" | b":=" | b".." | b"=>" | b"!=" | b"!~" | b"!~*" | b"!~~" | b"!~~*" | b"^@" | b"@>" | b"@@"
        | b"@?" | b"@-@" | b"&>" | b"&<|" | b"?|" | b"?&" | b"?||" | b"?-|" | b"?-" | b"?#" | b"|/"
        | b"||/" | b"<->" => false,
        [b'<', b'-' | b'+', ..] | [b'<', b'=', b'-' | b'+', ..] | [b'<', b'|', ..] => true,
        [b'=' | b'!' | b'^' | b'@' | b'?' | b'*' | b'/' | b'+' | b'%' | b'#', ..] => {
            !matches!(operator, b"#>" | b"#>>" | b"#-" | b"##" | b"#=" | b"%>" | b"%>>")
        }
        [b'&', b'>', ..] | [b'&', b'<', b'|', ..] => true,
        _ => false,
    }
}

/// Words before a string that leave it a plain string, or that the parser knows as the name of its type.
pub(super) fn string_may_follow(word: &[u8]) -> bool {
    #[rustfmt::skip] // many to a line
    const WORDS: &[&str] = &[
        "all", "and", "any", "as", "asc", "between", "both", "by", "call", "case", "check", "collate",
        "comment", "concurrently", "connection", "content", "copy", "csv", "database", "date", "default",
        "delimiter", "delimiters", "desc", "distinct", "do", "document", "else", "encoding", "escape",
        "except", "execute", "exists", "false", "filter", "for", "from", "function", "handler", "having",
        "header", "ilike", "in", "inline", "intersect", "interval", "into", "is", "json", "jsonb",
        "language", "leading", "like", "limit", "listen", "load", "local", "names", "not", "notify", "null",
        "of", "off", "offset", "on", "only", "option", "or", "overlaps", "overlay", "password", "placing",
        "program", "provider", "quote", "return", "returning", "role", "schema", "select", "server",
        "session", "set", "similar", "some", "substring", "symmetric", "tablespace", "template", "then",
        "time", "timestamp", "timestamptz", "to", "trailing", "transaction", "type", "union", "until",
        "using", "uuid", "valid", "value", "values", "version", "when", "where", "with", "zone",
    ];
    std::str::from_utf8(word).is_ok_and(|w| WORDS.binary_search(&w).is_ok())
}

/// Hints in the comments before the first token.
fn hints_before(space: &[u8]) -> Hints {
    let mut hints = Hints::default();
    if memmem::find(space, b"pgweir").is_none() {
        return hints;
    }
    let mut rest = space;
    while let Some(at) = rest.iter().position(|b| !b.is_ascii_whitespace() && *b != 0x0b) {
        rest = &rest[at..];
        let (inside, length) = if rest.starts_with(b"--") {
            let length = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            (&rest[2..length], length)
        } else {
            // the lexer has found its end; comments nest
            let mut depth = 0u32;
            let mut at = 0;
            loop {
                if rest[at..].starts_with(b"/*") {
                    depth += 1;
                    at += 2;
                } else if rest[at..].starts_with(b"*/") {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else if at < rest.len() {
                    at += 1;
                } else {
                    return hints;
                }
            }
            (&rest[2..at - 2], at)
        };
        if let Some(list) = inside.trim_ascii_start().strip_prefix(b"pgweir:") {
            let read = match std::str::from_utf8(list) {
                Ok(list) => read_hints(list, &mut hints),
                Err(_) => Err("the hint is not valid UTF-8".to_owned()),
            };
            if let Err(error) = read {
                hints.error.get_or_insert(error);
            }
        }
        rest = &rest[length..];
    }
    hints
}

/// `name=value, name=value`; commas may be left out.
fn read_hints(list: &str, hints: &mut Hints) -> Result<(), String> {
    let mut rest = list.trim_start_matches([' ', '\t', '\n', '\r', ',']);
    while !rest.is_empty() {
        let name_end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|end| *end > 0)
            .ok_or_else(|| format!("expected name=value at \"{}\"", rest.trim_end()))?;
        let name = &rest[..name_end];
        rest = rest[name_end..]
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| format!("expected = after \"{name}\""))?
            .trim_start();
        let mut values = Vec::new();
        if let Some(list) = rest.strip_prefix('(') {
            rest = list.trim_start();
            loop {
                let (value, after) = hint_value(rest)?;
                values.push(value);
                rest = after.trim_start();
                if let Some(after) = rest.strip_prefix(',') {
                    rest = after.trim_start();
                } else if let Some(after) = rest.strip_prefix(')') {
                    rest = after;
                    break;
                } else {
                    return Err(format!("the list of \"{name}\" has no closing parenthesis"));
                }
            }
        } else {
            let (value, after) = hint_value(rest)?;
            values.push(value);
            rest = after;
        }
        if name.eq_ignore_ascii_case("key") {
            hints.key.append(&mut values);
        } else {
            let slot = match name.to_ascii_lowercase().as_str() {
                "shard" => &mut hints.shard,
                "keyspace" => &mut hints.keyspace,
                "role" => &mut hints.role,
                _ => return Err(format!("unknown hint \"{name}\"; known are shard, key, keyspace, role")),
            };
            let (Some(value), true) = (values.pop(), values.is_empty()) else {
                return Err(format!("\"{name}\" takes one value"));
            };
            if slot.replace(value).is_some() {
                return Err(format!("\"{name}\" is given twice"));
            }
        }
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', ',']);
    }
    Ok(())
}

/// A value, quoted or up to the next space, comma or parenthesis; and what follows.
fn hint_value(rest: &str) -> Result<(String, &str), String> {
    let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        let end = rest.find([' ', '\t', '\n', '\r', ',', '(', ')']).unwrap_or(rest.len());
        if end == 0 {
            return Err("a value is missing".to_owned());
        }
        return Ok((rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut at = 1;
    loop {
        let end = rest[at..].find(quote).ok_or_else(|| format!("a value has no closing {quote}"))? + at;
        value.push_str(&rest[at..end]);
        at = end + 1;
        if !rest[at..].starts_with(quote) {
            return Ok((value, &rest[at..]));
        }
        value.push(quote);
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Scan {
        let mut scan = Scan::new();
        scan.scan(text, true).unwrap();
        scan
    }
    fn normalized(text: &str) -> String {
        String::from_utf8(scan(text).normalized).unwrap()
    }
    fn pieces(text: &str) -> Vec<&str> {
        scan(text).pieces.iter().map(|p| &text[p.span.start as usize..p.span.end as usize]).collect()
    }
    fn literals(text: &str) -> Vec<(&str, LiteralClass)> {
        scan(text)
            .literals
            .iter()
            .map(|l| (&text[l.span.start as usize..l.span.end as usize], l.class))
            .collect()
    }

    #[test]
    fn literals_leave_their_class_behind() {
        assert_eq!(
            normalized("SELECT Abalance  FROM pgbench_accounts\nWHERE aid = 4711;"),
            "select abalance from pgbench_accounts where aid = 0;"
        );
        let two = scan("select 1; select 'a'");
        assert_eq!(two.normalized_of(&two.pieces[0]), b"select 0");
        assert_eq!(two.normalized_of(&two.pieces[1]), b"select ''");
        assert_eq!(
            normalized("select 5,5000000000,5.0,'5',E'5',$$5$$,B'1',X'1',99999999999999999999,1e3"),
            "select 0,2147483648,.0,'',E'',$$$$,B'',X'',.0,.0"
        );
        assert_eq!(normalized("/* a */ f ( \"X y\" . b , $1 )--x"), "f(\"X y\".b,$1)");
        assert_eq!(normalized("a.b.*, 1 .b, a .5"), "a.b.*,0 .b,a .0");
    }

    #[test]
    fn strings_end_where_postgres_ends_them() {
        use LiteralClass::*;
        assert_eq!(literals("'a''b'"), [("'a''b'", String)]);
        assert_eq!(literals(r"'a\' || E'a\'b'''"), [(r"'a\'", String), (r"E'a\'b'''", Escape)]);
        assert_eq!(literals("$a$ $$ $b$ $a$"), [("$a$ $$ $b$ $a$", Dollar)]);
        assert_eq!(literals("'a'\n -- c\n 'b'"), [("'a'\n -- c\n 'b'", String)]);
        assert_eq!(literals("B'01''01'"), [("B'01'", Bit), ("'01'", String)]);
        assert_eq!(literals("abe'x'"), [("'x'", String)]);
        assert_eq!(literals("1..2"), [("1", Int4), ("2", Int4)]);
        let mut off = Scan::new();
        off.scan(r"select 'a\'b'", false).unwrap();
        assert_eq!(off.literals, [Literal { span: 7..13, class: Escape }]);
    }

    #[test]
    fn statements_split_at_their_semicolons_only() {
        assert_eq!(pieces(" ;; select 1 ; /* ; */ select ';' ;--;"), ["select 1", "select ';'"]);
        assert_eq!(
            pieces("create rule r as on insert to t do also (delete from a; delete from b); select 1"),
            ["create rule r as on insert to t do also (delete from a; delete from b)", "select 1"]
        );
        let body = "create or replace function f() returns int begin atomic; select case when a then 1 end; \
                    select 1 end; select t.end; end";
        assert_eq!(pieces(&format!("{body}; select 2")), [body, "select 2"]);
        assert_eq!(pieces("select begin atomic; select 2"), ["select begin atomic", "select 2"]);
        assert_eq!(pieces("select 1 case; select 2"), ["select 1 case", "select 2"]);
        assert_eq!(pieces("begin; select 1; end"), ["begin", "select 1", "end"]);
    }

    #[test]
    fn open_ends_are_postgres_errors() {
        for (text, message, position) in [
            ("select 'ab", "unterminated quoted string at or near \"'ab\"", 8),
            ("sélect \"ab", "unterminated quoted identifier at or near \"\"ab\"", 8),
            ("/* a /* b */", "unterminated /* comment at or near \"/* a /* b */\"", 1),
            ("select $x$a$y$", "unterminated dollar-quoted string at or near \"$x$a$y$\"", 8),
            ("select b'0", "unterminated bit string literal at or near \"b'0\"", 8),
            ("select x'0", "unterminated hexadecimal string literal at or near \"x'0\"", 8),
            ("select e'a\\'", "unterminated quoted string at or near \"e'a\\'\"", 8),
        ] {
            let mut scan = Scan::new();
            let error = scan.scan(text, true).unwrap_err();
            assert_eq!(error.sqlstate(), SqlState::SYNTAX_ERROR);
            assert_eq!(error.message(), message);
            assert_eq!(error.position_chars(), Some(position));
            assert!(scan.pieces.is_empty() && scan.normalized.is_empty());
        }
    }

    #[test]
    fn hints_stand_before_the_first_token() {
        let hints = scan(
            "/* pgweir: shard=s1, key=('a,''b', -5) keyspace=\"k s\" */ --pgweir: role=replica\n select 1",
        )
        .hints;
        assert_eq!(hints.shard.as_deref(), Some("s1"));
        assert_eq!(hints.key, ["a,'b", "-5"]);
        assert_eq!(hints.keyspace.as_deref(), Some("k s"));
        assert_eq!(hints.role.as_deref(), Some("replica"));
        assert_eq!(hints.error, None);
        assert_eq!(scan("/* pgweir: key=1, key=2 */ select 1").hints.key, ["1", "2"]);
        assert!(scan("select /* pgweir: shard=s1 */ 1").hints.is_empty());
        for (hint, wrong) in [
            ("shrd=s1", "unknown hint \"shrd\"; known are shard, key, keyspace, role"),
            ("shard", "expected = after \"shard\""),
            ("shard=a shard=b", "\"shard\" is given twice"),
            ("key='a", "a value has no closing '"),
            ("key=(a", "the list of \"key\" has no closing parenthesis"),
        ] {
            let hints = scan(&format!("/* pgweir: {hint} */ select 1")).hints;
            assert_eq!(hints.error.as_deref(), Some(wrong));
        }
    }

    #[test]
    fn what_the_parser_misreads_is_distrusted() {
        for text in [
            "select 'abc'\n'def'",
            "select 'abc' 'def'",
            "select pg_lsn '0/1'",
            "select interval(2) '1 day'",
            "select a isnull",
            "select a notnull",
            "select U&\"d\\0061t\"",
            "select u&'d'",
            "select 0x1F",
            "select 1_000",
            "select 12ab",
            "select $1and",
            "select a =@ 5",
            "select N'x'",
            "select * from t semi join u on t.k = u.k",
        ] {
            assert!(scan(text).distrust.is_some(), "{text}");
        }
        for text in [
            "select date '2020-01-01', a.isnull, b as notnull, 'x' as y",
            "select a from t where b = 'x' and c in ('y','z') or d like 'u' || 'v' between 'a' and 'b'",
            "select a->>'x', b @> '{}', c::text, -5, a >= -1, a*-1, x <-1",
            "insert into t values ('a', 'b', DEFAULT, NULL), ($1, $2, 3, 4.5)",
            "select case when a then 'x' else 'y' end",
            "select * from t fetch first 5 rows only",
        ] {
            assert_eq!(scan(text).distrust, None, "{text}");
        }
    }

    #[test]
    fn chains_and_depth_are_counted() {
        assert_eq!(scan(&format!("select 1{}", "+1".repeat(5000))).chain, 5000);
        assert_eq!(scan(&format!("select a, b{}", " union all select a, b".repeat(700))).chain, 700);
        assert_eq!(scan(&format!("select a{}", "[1]".repeat(90))).chain, 90);
        assert_eq!(scan(&format!("select a{}", "::int".repeat(90))).chain, 90);
        assert!(scan(&format!("insert into t values {}(1)", "(-1,1+1),".repeat(5000))).chain < 5);
        assert_eq!(scan(&format!("select {}1{}", "(".repeat(9000), ")".repeat(9000))).depth, 9000);
        assert_eq!(scan("select case when (a) then case when b then 1 end end, (1)").depth, 2);
        assert_eq!(scan("select t.case, t.case, t.case").depth, 0);
    }

    #[test]
    fn parameters() {
        assert_eq!(scan("select $1, $12, $3").max_param, 12);
        assert_eq!(scan("select $70000").max_param, u16::MAX);
    }

    #[test]
    fn the_list_of_words_is_sorted() {
        assert!(string_may_follow(b"all") && string_may_follow(b"zone") && string_may_follow(b"date"));
        assert!(!string_may_follow(b"pg_lsn"));
    }
}
