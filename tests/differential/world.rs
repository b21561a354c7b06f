//! A world: one map with keyspaces of every kind, the tables of it, and who owns what.

use crate::types::{TYPES, Type, named};
use pgweir::shards::{Located, ShardMap};
use pgweir::wire::values::{KeyType, KeyValue};
use std::collections::HashMap;
use std::fmt::Write;

/// A keyspace and its two tables.
pub struct Space {
    pub name: String,
    pub types: Vec<&'static Type>,
    /// key columns, alike in both tables
    pub columns: Vec<&'static str>,
    pub range: bool,
    /// the directory is this table
    pub listed: Option<&'static str>,
}

impl Space {
    /// The first has a primary key; the second has its columns in another order, of other widths, and takes NULL.
    pub fn table(&self, which: usize) -> String {
        format!("{}_{}", self.name, ["a", "b"][which])
    }

    /// Names of a table's columns, in their order.
    pub fn order(&self, which: usize) -> Vec<&str> {
        let keys = self.columns.iter().copied();
        match which {
            0 => keys.chain(["id", "v", "n"]).collect(),
            _ => ["id", "v"].into_iter().chain(keys).chain(["n"]).collect(),
        }
    }

    fn ddl(&self) -> String {
        let mut out = String::new();
        for which in [0, 1] {
            let columns: Vec<String> = self
                .order(which)
                .into_iter()
                .map(|c| match (c, self.columns.iter().position(|k| *k == c)) {
                    ("id", _) => "id int NOT NULL".into(),
                    ("n", _) => "n int DEFAULT 7".into(),
                    (_, Some(i)) => {
                        let collate = if which == 0 && self.range && self.types[i].name == "text" {
                            " COLLATE \"C\""
                        } else if which == 1 && self.range && self.types[i].name == "text" {
                            " COLLATE \"en-x-icu\""
                        } else {
                            ""
                        };
                        format!("{c} {}{collate}", self.types[i].columns[which])
                    }
                    _ => "v text".into(),
                })
                .collect();
            let table = self.table(which);
            let keys = self.columns.join(", ");
            if which == 1 {
                writeln!(out, "CREATE TABLE {table} ({});", columns.join(", ")).unwrap();
                continue;
            }
            let parts = self.name == "h_bigint";
            let partition = if parts { " PARTITION BY RANGE (id)" } else { "" };
            writeln!(
                out,
                "CREATE TABLE {table} ({}, PRIMARY KEY ({keys}, id)){partition};",
                columns.join(", ")
            )
            .unwrap();
            if parts {
                writeln!(out, "CREATE TABLE {table}_low PARTITION OF {table} FOR VALUES FROM (0) TO (10);")
                    .unwrap();
                writeln!(out, "CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;").unwrap();
            }
        }
        let (a, b, keys) = (self.table(0), self.table(1), self.columns.join(", "));
        writeln!(out, "CREATE VIEW {}_v AS SELECT {keys}, id, v FROM {a} WHERE n >= 0;", self.name).unwrap();
        // a union needs one collation
        let collated: Vec<String> = (self.columns.iter().zip(&self.types))
            .map(|(c, ty)| match ty.name {
                "text" if self.range => format!("{c} COLLATE \"C\" AS {c}"),
                _ => c.to_string(),
            })
            .collect();
        let collated = collated.join(", ");
        writeln!(
            out,
            "CREATE VIEW {}_w AS SELECT {collated}, id, v FROM {a} UNION ALL SELECT {collated}, id, v FROM {b};",
            self.name
        )
        .unwrap();
        out
    }
}

/// Schemas of tenants; the name is the key.
pub const TENANTS: [&str; 4] = ["tenant_a", "tenant_b", "tenant_c", "tenant_d"];

/// What the two directory tables list: the key as text, joined by '|', and the number of the shard.
const LISTED: &[(&str, &str, usize)] = &[
    ("dir_account", "1", 0),
    ("dir_account", "2", 1),
    ("dir_account", "3", 2),
    ("dir_account", "150", 1),
    ("dir_pair", "a|1", 1),
    ("dir_pair", "a|2", 0),
    ("dir_pair", "ab|99", 2),
    ("dir_pair", "acme|100", 1),
];

pub struct World {
    pub shards: usize,
    pub spaces: Vec<Space>,
    pub map: String,
    pub schema: String,
    /// file beside the map
    pub side_file: String,
    /// rows of the tables that every side has from the beginning
    pub rows: String,
    /// of the directory tables
    pub listed: HashMap<(String, String), usize>,
}

impl World {
    pub fn new(shards: usize) -> World {
        let mut w = World {
            shards,
            spaces: Vec::new(),
            map: String::new(),
            schema: String::new(),
            side_file: String::new(),
            rows: String::new(),
            listed: HashMap::new(),
        };
        for (function, prefix, slots) in
            [("postgres", "h", 64), ("xxh64", "x", 50), ("citus", "c", 32), ("modulo", "m", 7)]
        {
            for ty in TYPES {
                if function != "modulo" || matches!(ty.name, "smallint" | "integer" | "bigint") {
                    w.hash(&format!("{prefix}_{}", ty.name), &[ty.name], function, slots);
                }
            }
        }
        w.hash("hh_pair", &["bigint", "text"], "postgres", 128);
        w.hash("hh_three", &["date", "smallint", "uuid"], "postgres", 64);
        w.hash("xx_pair", &["uuid", "integer"], "xxh64", 64);
        for ty in ["integer", "text", "date", "numeric", "uuid", "timestamp", "timestamptz", "bytea"] {
            let kind = named(ty);
            let last = kind.values.len();
            let mut cuts = vec![last / 2];
            if shards > 2 {
                cuts.push(last / 2 + 1);
            }
            w.range(&format!("r_{ty}"), &[ty], None, &cuts, None);
            // a range with ends: what lies outside has no owner
            w.range(&format!("e_{ty}"), &[ty], Some(1), &cuts, Some(last - 1));
        }
        w.range("rr_pair", &["text", "bigint"], None, if shards > 2 { &[3, 6] } else { &[4] }, None);
        w.directories();
        w.tenants();
        w.map += "[table.land]\nreference = true\n\n[table.audit]\nshard = \"s2\"\n\n";
        w.schema += "CREATE TABLE land (code text PRIMARY KEY, size int); CREATE TABLE audit (id int, what text); \
                     CREATE TABLE plain (id int, what text);\n";
        w.rows += "INSERT INTO land SELECT 'l' || g, g FROM generate_series(0, 9) g;\n";
        w
    }

    fn owner(&self, i: usize) -> String {
        format!("s{}", i % self.shards + 1)
    }

    fn space(&mut self, name: &str, types: &[&str], range: bool, listed: Option<&'static str>) {
        let types: Vec<_> = types.iter().map(|t| named(t)).collect();
        let columns = if types.len() == 1 { vec!["k"] } else { ["ka", "kb", "kc"][..types.len()].to_vec() };
        let space = Space { name: name.into(), types, columns, range, listed };
        let key: Vec<String> = space.columns.iter().map(|c| format!("{c:?}")).collect();
        for which in [0, 1] {
            writeln!(
                self.map,
                "[table.{}]\nkeyspace = \"{name}\"\nkey = [{}]\n",
                space.table(which),
                key.join(", ")
            )
            .unwrap();
        }
        self.schema += &space.ddl();
        self.spaces.push(space);
    }

    fn keyspace(&mut self, name: &str, kind: &str, types: &[&str]) {
        let key: Vec<String> = types.iter().map(|t| format!("{t:?}")).collect();
        writeln!(self.map, "[keyspace.{name}]\nkind = \"{kind}\"\nkey = [{}]", key.join(", ")).unwrap();
    }

    /// Slots dealt out one by one, so that neighbours differ.
    fn owners(&mut self, name: &str, slots: usize) {
        writeln!(self.map, "[keyspace.{name}.owners]").unwrap();
        for shard in 0..self.shards {
            let own: Vec<String> =
                (0..slots).filter(|s| s % self.shards == shard).map(|s| s.to_string()).collect();
            writeln!(self.map, "s{} = \"{}\"", shard + 1, own.join(", ")).unwrap();
        }
        self.map.push('\n');
    }

    fn hash(&mut self, name: &str, types: &[&str], function: &str, slots: usize) {
        self.keyspace(name, "hash", types);
        writeln!(self.map, "function = \"{function}\"\nslots = {slots}").unwrap();
        self.owners(name, slots);
        self.space(name, types, false, None);
    }

    /// Cuts at values of the first column.
    fn range(&mut self, name: &str, types: &[&str], from: Option<usize>, cuts: &[usize], to: Option<usize>) {
        let ty = named(types[0]);
        let bound = |i: usize| {
            let value = ty.values[i];
            let value = if ty.name == "integer" { value.to_owned() } else { format!("{value:?}") };
            if types.len() > 1 { format!("[{value}]") } else { value }
        };
        self.keyspace(name, "range", types);
        self.map += "ranges = [\n";
        let ends: Vec<Option<usize>> =
            [from].into_iter().chain(cuts.iter().map(|c| Some(*c))).chain([to]).collect();
        for (i, pair) in ends.windows(2).enumerate() {
            self.map += "  { ";
            if let Some(from) = pair[0] {
                write!(self.map, "from = {}, ", bound(from)).unwrap();
            }
            if let Some(to) = pair[1] {
                write!(self.map, "to = {}, ", bound(to)).unwrap();
            }
            let owner = self.owner(i + 1);
            writeln!(self.map, "shard = {owner:?} }},").unwrap();
        }
        self.map += "]\n\n";
        self.space(name, types, true, None);
    }

    fn directories(&mut self) {
        let (one, two, last) = (self.owner(0), self.owner(1), self.owner(self.shards - 1));
        self.keyspace("others", "hash", &["text"]);
        self.map += "slots = 16\n";
        self.owners("others", 16);
        self.keyspace("d_text", "directory", &["text"]);
        writeln!(self.map, "unknown = {{ keyspace = \"others\" }}\n[keyspace.d_text.entries]").unwrap();
        writeln!(self.map, "{one} = [\"\", \"acme\"]\n{two} = [\"it's\", \"a \"]\n").unwrap();
        self.space("d_text", &["text"], false, None);

        self.keyspace("d_integer", "directory", &["integer"]);
        writeln!(self.map, "unknown = \"error\"\n[keyspace.d_integer.entries]").unwrap();
        writeln!(self.map, "{one} = [0, 1, 100]\n{two} = [2, 3, -70]\n").unwrap();
        self.space("d_integer", &["integer"], false, None);

        self.keyspace("d_uuid", "directory", &["uuid"]);
        writeln!(self.map, "unknown = {{ shard = \"{two}\" }}\nfile = \"devices.csv\"\n").unwrap();
        self.side_file =
            format!("device,shard\n{},{one}\n{},{last}\n", named("uuid").values[1], named("uuid").values[4]);
        self.space("d_uuid", &["uuid"], false, None);

        let table = |name: &str, columns: &str| {
            format!("[keyspace.{name}.table]\nname = \"public.{columns}\nshard = \"shard\"\n\n")
        };
        self.keyspace("t_bigint", "directory", &["bigint"]);
        self.map += "unknown = \"error\"\n";
        self.map += &table("t_bigint", "dir_account\"\non = \"s1\"\nkey = \"account_id\"");
        self.space("t_bigint", &["bigint"], false, Some("dir_account"));

        self.keyspace("t_pair", "directory", &["text", "integer"]);
        writeln!(self.map, "unknown = {{ shard = \"{last}\" }}").unwrap();
        self.map += &table("t_pair", "dir_pair\"\non = \"s1\"\nkey = [\"name\", \"part\"]");
        self.space("t_pair", &["text", "integer"], false, Some("dir_pair"));

        self.schema += "CREATE TABLE dir_account (account_id bigint PRIMARY KEY, shard text NOT NULL);\n\
                        CREATE TABLE dir_pair (name text, part int, shard text NOT NULL, PRIMARY KEY (name, part));\n";
        for (dir, key, shard) in LISTED {
            let shard = shard % self.shards;
            self.listed.insert((dir.to_string(), key.to_string()), shard);
            let values: Vec<String> = key.split('|').map(|v| format!("'{v}'")).collect();
            writeln!(self.rows, "INSERT INTO {dir} VALUES ({}, 's{}');", values.join(", "), shard + 1)
                .unwrap();
        }
    }

    fn tenants(&mut self) {
        self.keyspace("tenants", "hash", &["text"]);
        self.map += "slots = 8\n";
        self.owners("tenants", 8);
        self.map += "[schema.\"tenant_*\"]\nkeyspace = \"tenants\"\n\n";
        for tenant in TENANTS {
            writeln!(
                self.schema,
                "CREATE SCHEMA {tenant}; CREATE TABLE {tenant}.notes (id int PRIMARY KEY, v text); \
                 CREATE TABLE {tenant}.tags (id int, tag text);"
            )
            .unwrap();
        }
    }

    /// The shard that owns a key, given as Postgres prints it with ISO settings; `None` if no shard does.
    pub fn owner_of(
        &self,
        map: &ShardMap,
        keyspace: &str,
        listed: Option<&str>,
        key: &[&str],
    ) -> Option<usize> {
        let keyspace = map.keyspace(map.keyspace_named(keyspace).unwrap());
        if let Some(directory) = listed {
            let found = self.listed.get(&(directory.to_owned(), key.join("|"))).copied();
            return found.or((directory == "dir_pair").then_some(self.shards - 1));
        }
        let values: Vec<KeyValue<'_>> = key
            .iter()
            .zip(&keyspace.types)
            .map(|(text, ty)| {
                // a table's column may be wider than the keyspace's type
                let integer = matches!(ty, KeyType::Int2 | KeyType::Int4);
                KeyValue::from_text(if integer { KeyType::Int8 } else { *ty }, text.as_bytes()).unwrap()
            })
            .collect();
        match keyspace.locate(&values) {
            Ok(Located::Shard(shard)) => Some(usize::from(shard.0)),
            Ok(Located::Miss) => panic!("{} is no directory table", keyspace.name),
            Err(_) => None,
        }
    }
}
