//! A map file that is being edited: comments and order stay, and the file is replaced in one step.

use super::file::{Finding, parse, toml_key, written_slots};
use super::keyspace::HashFunction;
use super::spread::{Spread, spread};
use super::value::type_name;
use super::{Epoch, Shard, ShardId, ShardMap};
use crate::error::{Error, Result};
use crate::wire::values::KeyType;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

/// A line of slots is broken into a list beyond this many characters.
const LINE: usize = 90;

/// The text of a map, and where it belongs.
#[derive(Debug, Clone)]
pub struct MapDocument {
    path: PathBuf,
    document: DocumentMut,
}

impl MapDocument {
    /// Reads a file; it must be a valid map.
    pub fn open(path: &Path) -> Result<Self, Vec<Finding>> {
        let text = super::file::read_text(path)?;
        Self::new(path, &text)
    }

    /// Takes a text; it must be a valid map. Nothing is written before `save`.
    pub fn new(path: &Path, text: &str) -> Result<Self, Vec<Finding>> {
        parse(text, path)?;
        let document = text.parse().map_err(|e: toml_edit::TomlError| {
            vec![Finding {
                file: path.display().to_string().into(),
                line: 0,
                column: 0,
                message: e.message().to_owned(),
                hint: "Correct the TOML.".into(),
            }]
        })?;
        Ok(MapDocument { path: path.to_owned(), document })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// The map that the text describes now.
    pub fn map(&self) -> Result<ShardMap, Vec<Finding>> {
        parse(&self.text(), &self.path)
    }

    /// Raises the epoch by one.
    pub fn bump_epoch(&mut self) -> Result<Epoch> {
        let value = self.document.get_mut("epoch").and_then(Item::as_value_mut);
        match value.and_then(|v| Some((v.as_integer()?.checked_add(1)?, v))) {
            Some((next, value)) => {
                replace(value, next.into());
                Ok(Epoch(next as u64))
            }
            None => Err(self.lost("epoch that can be raised")),
        }
    }

    /// Gives slots of a hash keyspace to a shard. Only the lines of shards that gain or lose any are rewritten.
    ///
    /// Errors: no such keyspace, shard or slot; the document is unchanged then.
    pub fn set_owner(
        &mut self,
        keyspace: &str,
        slots: impl IntoIterator<Item = RangeInclusive<u32>>,
        shard: &str,
    ) -> Result<()> {
        let map = self.map().map_err(|f| first(&f))?;
        let laid = map
            .keyspace_named(keyspace)
            .and_then(|id| map.keyspace(id).slots())
            .ok_or_else(|| Error::config(format!("there is no hash keyspace \"{keyspace}\"")))?;
        let shard =
            map.shard_named(shard).ok_or_else(|| Error::config(format!("there is no shard \"{shard}\"")))?;
        let mut owners = laid.owners.clone();
        for run in slots {
            let Some(slots) = owners.get_mut(*run.start() as usize..=*run.end() as usize) else {
                return Err(Error::config(format!(
                    "keyspace \"{keyspace}\" has {} slots",
                    laid.owners.len()
                ))
                .hint(format!("{}-{} is not among them.", run.start(), run.end())));
            };
            slots.fill(shard);
        }
        let lines = self
            .document
            .get_mut("keyspace")
            .and_then(|k| k.get_mut(keyspace))
            .and_then(|k| k.get_mut("owners"))
            .and_then(Item::as_table_like_mut);
        let Some(lines) = lines else { return Err(self.lost("owners")) };
        for (i, owner) in map.shards.iter().enumerate() {
            let id = ShardId(i as u16);
            let changed =
                owners.iter().zip(&laid.owners).any(|(new, old)| new != old && (*new == id || *old == id));
            if changed {
                write_owner(lines, &owner.name, &written_slots(&owners, id));
            }
        }
        Ok(())
    }

    /// Gives one range of a range keyspace, counted from 0 in the order of the file, to a shard.
    pub fn set_range_owner(&mut self, keyspace: &str, range: usize, shard: &str) -> Result<()> {
        let ranges = self
            .document
            .get_mut("keyspace")
            .and_then(|k| k.get_mut(keyspace))
            .and_then(|k| k.get_mut("ranges"));
        let line = match ranges {
            Some(Item::ArrayOfTables(list)) => list.get_mut(range).map(|t| t as &mut dyn TableLike),
            Some(Item::Value(Value::Array(list))) => {
                list.get_mut(range).and_then(Value::as_inline_table_mut).map(|t| t as &mut dyn TableLike)
            }
            _ => None,
        };
        match line.and_then(|l| l.get_mut("shard")).and_then(Item::as_value_mut) {
            Some(value) => replace(value, shard.into()),
            None => {
                return Err(Error::config(format!("keyspace \"{keyspace}\" has no range number {range}")));
            }
        }
        self.map().map(|_| ()).map_err(|f| first(&f))
    }

    /// Replaces the file in one step: a crash leaves the old text or the new one. The text must be a valid map.
    pub fn save(&self) -> Result<()> {
        self.map().map_err(|f| first(&f))?;
        replace_file(&self.path, self.text().as_bytes()).map_err(|e| {
            Error::config(format!("cannot write {}: {e}", self.path.display()))
                .hint("Check that the directory can be written to; the old file is as it was.")
        })
    }

    fn lost(&self, what: &str) -> Error {
        Error::config(format!("{} has no {what}", self.path.display()))
    }
}

fn first(findings: &[Finding]) -> Error {
    match findings.first() {
        Some(f) => Error::config(format!("{}:{}: {}", f.file, f.line, f.message)).hint(f.hint.clone()),
        None => Error::internal("a map was refused without a reason"),
    }
}

/// A new value in the place of an old one, with the comments and spaces around it.
fn replace(old: &mut Value, mut new: Value) {
    *new.decor_mut() = old.decor().clone();
    *old = new;
}

fn write_owner(lines: &mut dyn TableLike, shard: &str, slots: &str) {
    let commented = lines
        .key(shard)
        .and_then(|k| k.leaf_decor().prefix())
        .and_then(|p| p.as_str())
        .is_some_and(|p| p.contains('#'));
    let value = slot_value(slots);
    match lines.get_mut(shard).and_then(Item::as_value_mut) {
        // A comment above the line of a shard stays, and so does its line.
        Some(_) if slots.is_empty() && !commented => {
            lines.remove(shard);
        }
        Some(old) => replace(old, value),
        None => {
            lines.insert(shard, Item::Value(value));
        }
    }
}

/// Slots as a string, or as a list of strings where the line would be long.
fn slot_value(slots: &str) -> Value {
    if slots.len() <= LINE {
        return slots.into();
    }
    let mut list = Array::new();
    let mut line = String::new();
    for piece in slots.split(", ") {
        if line.len() + piece.len() > LINE {
            list.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(piece);
    }
    list.push(line);
    for value in list.iter_mut() {
        value.decor_mut().set_prefix("\n  ");
    }
    list.set_trailing("\n");
    list.set_trailing_comma(true);
    list.into()
}

fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A link keeps pointing at the file: what it points at is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        if let Ok(old) = std::fs::metadata(&path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Gone already when the rename was done; what matters is the first error.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// A hash keyspace of a new map, spread over all its shards.
#[derive(Debug, Clone)]
pub struct NewKeyspace {
    pub name: String,
    pub types: Vec<KeyType>,
    pub slots: u32,
    pub function: HashFunction,
    pub spread: Spread,
    /// `schema.table` and its key columns
    pub tables: Vec<(String, Vec<String>)>,
}

impl NewKeyspace {
    /// 1024 slots of the `postgres` hash, spread evenly.
    pub fn of(name: &str, ty: KeyType) -> Self {
        NewKeyspace {
            name: name.into(),
            types: vec![ty],
            slots: 1024,
            function: HashFunction::Postgres,
            spread: Spread::Even,
            tables: Vec::new(),
        }
    }

    pub fn table(mut self, name: &str, key: &[&str]) -> Self {
        self.tables.push((name.into(), key.iter().map(|k| (*k).to_owned()).collect()));
        self
    }
}

/// A new map at epoch 1, to be saved at `path`. The first shard is the default; `reference` are tables by name.
///
/// Errors: what is wrong with the result, e.g. a name that a map cannot have.
pub fn generate(
    path: &Path,
    database: &str,
    shards: &[Shard],
    keyspaces: &[NewKeyspace],
    reference: &[&str],
) -> Result<MapDocument, Vec<Finding>> {
    let mut text = String::new();
    let string = |s: &str| Value::from(s).to_string();
    let strings = |items: Vec<String>| match &items[..] {
        [one] => one.clone(),
        _ => format!("[{}]", items.join(", ")),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# The shard map of one logical database. Every key is described in docs/shard-maps.md.\n"
    );
    let _ = writeln!(text, "database = {}", string(database));
    let _ = writeln!(text, "epoch = 1");
    if let Some(first) = shards.first() {
        let _ = writeln!(text, "default_shard = {}", string(&first.name));
    }
    for shard in shards {
        let _ = writeln!(text, "\n[[shard]]\nname = {}\nnodes = [", string(&shard.name));
        for node in &shard.nodes {
            let _ = write!(text, "  {{ host = {}, port = {}", string(&node.host), node.port);
            if &*node.database != database {
                let _ = write!(text, ", database = {}", string(&node.database));
            }
            let _ = writeln!(text, " }},");
        }
        let _ = writeln!(text, "]");
    }
    let names: Vec<&str> = shards.iter().map(|s| &*s.name).collect();
    for keyspace in keyspaces {
        let key = toml_key(&keyspace.name);
        let types = keyspace.types.iter().map(|t| string(type_name(*t))).collect();
        let _ = writeln!(text, "\n[keyspace.{key}]\nkind = \"hash\"\nkey = {}", strings(types));
        let _ = writeln!(text, "slots = {}\nfunction = \"{}\"", keyspace.slots, keyspace.function.name());
        let _ = match keyspace.spread {
            Spread::Even => writeln!(text, "spread = \"even\""),
            Spread::Rendezvous => writeln!(text, "spread = \"rendezvous\""),
            Spread::Ring { virtual_nodes } => {
                writeln!(text, "spread = \"ring\"\nvirtual_nodes = {virtual_nodes}")
            }
        };
        let _ = writeln!(text, "\n[keyspace.{key}.owners]");
        if names.is_empty() {
            continue;
        }
        let owners: Vec<ShardId> =
            spread(keyspace.spread, keyspace.slots, &names).into_iter().map(|i| ShardId(i as u16)).collect();
        for (i, name) in names.iter().enumerate() {
            let slots = written_slots(&owners, ShardId(i as u16));
            if !slots.is_empty() {
                let _ = writeln!(text, "{} = {}", toml_key(name), slot_value(&slots));
            }
        }
    }
    for keyspace in keyspaces {
        for (table, columns) in &keyspace.tables {
            let key = strings(columns.iter().map(|c| string(c)).collect());
            let _ = writeln!(
                text,
                "\n[table.{}]\nkeyspace = {}\nkey = {key}",
                toml_key(table),
                string(&keyspace.name)
            );
        }
    }
    for table in reference {
        let _ = writeln!(text, "\n[table.{}]\nreference = true", toml_key(table));
    }
    MapDocument::new(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::{Located, NodeAddr};
    use crate::wire::values::KeyValue;

    fn shards(n: usize) -> Vec<Shard> {
        (1..=n)
            .map(|i| Shard {
                name: format!("s{i}").into(),
                nodes: vec![NodeAddr {
                    host: "127.0.0.1".into(),
                    port: 5000 + i as u16,
                    database: "d".into(),
                }],
            })
            .collect()
    }

    fn shown(f: Vec<Finding>) -> String {
        f.iter().map(|f| format!("{f}\n")).collect()
    }

    #[test]
    fn a_generated_map_loads_for_every_spread() {
        for how in [Spread::Even, Spread::Ring { virtual_nodes: 8 }, Spread::Rendezvous] {
            for n in [1, 2, 7] {
                let mut keyspace = NewKeyspace::of("k \"odd.name", KeyType::Int8).table("a.b", &["x"]);
                keyspace.spread = how;
                let document =
                    generate(Path::new("m.toml"), "d", &shards(n), &[keyspace], &["c", "\"A b\".d"])
                        .map_err(shown)
                        .expect("a valid map");
                let map = document.map().map_err(shown).expect("a valid map");
                let laid = map.keyspaces[0].slots().expect("a hash");
                let names: Vec<&str> = map.shards.iter().map(|s| &*s.name).collect();
                let fresh: Vec<ShardId> =
                    spread(how, 1024, &names).into_iter().map(|i| ShardId(i as u16)).collect();
                assert_eq!((laid.spread, &laid.owners), (how, &fresh));
                assert_eq!(map.tables.len(), 3);
            }
        }
    }

    const COMMENTED: &str = r#"# top
epoch = 7   # raised by moves
database = "d"
default_shard = "a"

[[shard]]
name = "a"
nodes = [{ host = "h", port = 1 }] # one
[[shard]]
name = "b"
nodes = [{ host = "h", port = 2 }]
[[shard]]
name = "c"
nodes = [{ host = "h", port = 3 }]

[keyspace.k] # the keys
key = "bigint"
kind = "hash"
slots = 16
[keyspace.k.owners]
# the first half
a = "0-7"   # seven
b = "8-15"

[table.t] # rows
key = "id"
keyspace = "k"
"#;

    #[test]
    fn moving_slots_touches_only_their_lines() {
        let mut document = MapDocument::new(Path::new("m"), COMMENTED).map_err(shown).expect("valid");
        document.set_owner("k", [6..=8], "c").expect("slots move");
        assert_eq!(document.bump_epoch().expect("an epoch"), Epoch(8));
        let expected = COMMENTED.replace("epoch = 7 ", "epoch = 8 ").replace(
            "a = \"0-7\"   # seven\nb = \"8-15\"\n",
            "a = \"0-5\"   # seven\nb = \"9-15\"\nc = \"6-8\"\n",
        );
        assert_eq!(document.text(), expected);
        document.set_owner("k", [0..=15], "b").expect("slots move");
        let drained = expected.replace(
            "a = \"0-5\"   # seven\nb = \"9-15\"\nc = \"6-8\"\n",
            "a = \"\"   # seven\nb = \"0-15\"\n",
        );
        assert_eq!(document.text(), drained, "a line with a comment above it stays");
        assert!(document.set_owner("k", [16..=16], "b").is_err());
        assert!(document.set_owner("k", [0..=1], "nobody").is_err());
        assert!(document.set_owner("nothing", [0..=1], "a").is_err());
        assert_eq!(document.text(), drained, "a refused edit changes nothing");
    }

    #[test]
    fn a_range_changes_hands() {
        let text = COMMENTED
            .replace(
                "slots = 16\n[keyspace.k.owners]\n# the first half\na = \"0-7\"   # seven\nb = \"8-15\"\n",
                "ranges = [\n  { to = 5, shard = \"a\" }, # low\n  { from = 5, shard = \"b\" },\n]\n",
            )
            .replace("\"hash\"", "\"range\"");
        let mut document = MapDocument::new(Path::new("m"), &text).map_err(shown).expect("valid");
        document.set_range_owner("k", 0, "c").expect("a range");
        assert_eq!(document.text(), text.replace("to = 5, shard = \"a\"", "to = 5, shard = \"c\""));
        let map = document.map().map_err(shown).expect("valid");
        assert_eq!(map.keyspaces[0].locate(&[KeyValue::Int(4)]), Ok(Located::Shard(ShardId(2))));
        assert!(document.set_range_owner("k", 2, "c").is_err());
    }

    #[test]
    fn long_lists_of_slots_are_broken_into_lines() {
        let mut document = MapDocument::new(
            Path::new("m"),
            &COMMENTED.replace("slots = 16", "slots = 256").replace("8-15", "8-255"),
        )
        .map_err(shown)
        .expect("valid");
        document.set_owner("k", (0..128).map(|i| 2 * i..=2 * i), "c").expect("slots move");
        assert!(document.text().lines().all(|l| l.len() < 100), "{}", document.text());
        let map = document.map().map_err(shown).expect("valid");
        let owners = &map.keyspaces[0].slots().expect("a hash").owners;
        assert!((0..256).all(|i| (owners[i] == ShardId(2)) == (i % 2 == 0)));
    }

    #[test]
    fn saving_replaces_the_file_and_keeps_links_and_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("link.toml"));
        std::fs::write(&real, COMMENTED).expect("written");
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("mode");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let mut document = MapDocument::open(&link).map_err(shown).expect("valid");
        document.bump_epoch().expect("an epoch");
        document.save().expect("saved");
        assert!(link.is_symlink());
        assert_eq!(
            std::fs::read_to_string(&real).expect("read"),
            COMMENTED.replace("epoch = 7 ", "epoch = 8 ")
        );
        assert_eq!(std::fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 2, "no temporary file is left");
    }
}
