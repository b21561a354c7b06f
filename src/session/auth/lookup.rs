//! Passwords that are looked up on a shard (`auth_query`), so that users need not be listed.
//!
//! An answer is kept for a while, and that there is none as well. Whoever asks for a name while it is being looked up waits
//! for that answer. A log-in that fails may have met an old password: the first one has the answer forgotten, so that
//! the next attempt asks again; further failures do not, or guessing would be a way to keep a shard busy.

use crate::backend::pool::Backends;
use crate::error::{Error, Result, Source, SqlState};
use crate::options::Secret;
use crate::session::auth::users::{Mock, Stored};
use crate::shards::{ShardId, ShardMap};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

crate::options! {
    /// How users that are not listed are looked up.
    pub struct Options {
        /// SQL that looks up a user whose password is not in the file: `$1` is the name, the answer (name, rolpassword); empty: nobody is
        auth_query: String = String::new(),
        /// the shard that is asked; the map's default shard when not given
        auth_shard: Option<String> = None,
        /// how long an answer is kept
        auth_ttl: Duration = Duration::from_secs(60),
        /// how long it is kept that there is no such user
        auth_negative_ttl: Duration = Duration::from_secs(5),
    }
}

/// Most answers that are kept.
const MAX_ANSWERS: usize = 10_000;
/// Longest name that a server can have (NAMEDATALEN - 1), in bytes.
const MAX_NAME: usize = 63;
/// Questions at once: strangers must not have all links of the service user.
const MAX_QUESTIONS: usize = 4;
/// For one question, from asking for a link on.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers of one database.
#[derive(Debug)]
pub struct Lookup {
    options: Options,
    answers: Mutex<HashMap<Box<str>, Arc<Entry>>>,
    questions: Semaphore,
    /// rounds of the verifier that was seen last; 0: none was
    iterations: AtomicU32,
}

#[derive(Debug, Default)]
struct Entry {
    /// empty while it is being asked
    answer: OnceCell<Answer>,
    /// it replaces an answer that was doubted: it stays for its time
    asked_again: bool,
}

#[derive(Debug)]
struct Answer {
    stored: Option<Arc<Stored>>,
    until: Instant,
}

impl Entry {
    fn is_current(&self, now: Instant) -> bool {
        self.answer.get().is_none_or(|answer| now < answer.until)
    }
}

impl Lookup {
    pub fn new(options: Options) -> Lookup {
        Lookup {
            options,
            answers: Mutex::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
            iterations: AtomicU32::new(0),
        }
    }

    pub fn is_on(&self) -> bool {
        !self.options.auth_query.is_empty()
    }

    /// Rounds of the verifiers that are looked up, if one has been seen.
    pub fn iterations(&self) -> Option<u32> {
        Some(self.iterations.load(Ordering::Relaxed)).filter(|n| *n > 0)
    }

    /// The shard of a map that is asked. Errors: it has none of that name.
    pub fn shard(options: &Options, map: &ShardMap) -> Result<ShardId, String> {
        let Some(name) = &options.auth_shard else { return Ok(map.default_shard) };
        match map.shards.iter().position(|shard| *shard.name == **name) {
            Some(i) => Ok(ShardId(i as u16)),
            None => Err(format!("auth_shard = {name:?}: the shard map has no such shard")),
        }
    }

    /// What is stored of a user's password, if there is such a user.
    ///
    /// Errors: 57P03, told to a stranger: the shard cannot be asked. Why is in the log.
    pub async fn find(
        &self,
        user: &str,
        backends: &Backends,
        map: &ShardMap,
        mock: &Mock,
    ) -> Result<Option<Arc<Stored>>> {
        if !self.is_on() || user.len() > MAX_NAME {
            return Ok(None);
        }
        let entry = self.entry(user, Instant::now());
        let asked = entry.answer.get_or_try_init(|| async {
            let stored = self.ask(user, backends, map, mock).await?;
            let kept = if stored.is_some() { self.options.auth_ttl } else { self.options.auth_negative_ttl };
            let now = Instant::now();
            Ok::<_, Error>(Answer { stored, until: now.checked_add(kept).unwrap_or(now) })
        });
        match asked.await {
            Ok(answer) => Ok(answer.stored.clone()),
            Err(e) => {
                tracing::warn!("user {user:?} could not be looked up: {e}");
                let message = format!("user \"{user}\" could not be looked up");
                Err(Error::new(Source::Shard, SqlState::CANNOT_CONNECT_NOW, message).retryable())
            }
        }
    }

    /// A log-in has failed with this: it may be an old password.
    pub fn doubt(&self, user: &str, stored: &Arc<Stored>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = answers.get(user) else { return };
        let same = entry.answer.get().and_then(|a| a.stored.as_ref()).is_some_and(|s| Arc::ptr_eq(s, stored));
        if same && !entry.asked_again {
            answers.insert(user.into(), Arc::new(Entry { asked_again: true, ..Entry::default() }));
        }
    }

    /// The current entry of a user, perhaps one that is empty.
    fn entry(&self, user: &str, now: Instant) -> Arc<Entry> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = answers.get(user).filter(|e| e.is_current(now)) {
            return entry.clone();
        }
        if answers.len() >= MAX_ANSWERS {
            answers.retain(|_, e| e.is_current(now));
        }
        if answers.len() >= MAX_ANSWERS {
            // names that nobody has are what a stranger can make up
            answers.retain(|_, e| e.answer.get().is_some_and(|a| a.stored.is_some()));
        }
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        let entry = Arc::<Entry>::default();
        answers.insert(user.into(), entry.clone());
        entry
    }

    async fn ask(
        &self,
        user: &str,
        backends: &Backends,
        map: &ShardMap,
        mock: &Mock,
    ) -> Result<Option<Arc<Stored>>> {
        let shard = Lookup::shard(&self.options, map).map_err(Error::config)?;
        let deadline = Instant::now() + PATIENCE;
        let question = async {
            // never closed
            let _one = self.questions.acquire().await;
            let mut link = backends.service(shard, deadline).await?;
            link.rows(&self.options.auth_query, &[Some(user.as_bytes())]).await
        };
        let rows = tokio::time::timeout_at(deadline.into(), question)
            .await
            .map_err(|_| Error::config(format!("no answer within {PATIENCE:?}")))??;
        let mut found = None;
        for row in &rows {
            let [name, password] = row.cells::<2>().map_err(|_| {
                Error::config("auth_query answers with something else than two columns of text")
                    .hint("It must answer with the name and rolpassword.")
            })?;
            if name == Some(user) {
                found = password.filter(|p| !p.is_empty()).map(Secret::new);
                break;
            }
        }
        let Some(password) = found else { return Ok(None) };
        let (user, salt) = (user.to_owned(), mock.salt(user));
        // A password in the clear has to be stretched.
        let stored = tokio::task::spawn_blocking(move || Stored::from_text(&user, &password, &salt))
            .await
            .map_err(|e| Error::internal(format!("reading a password failed: {e}")))?;
        if let Some(verifier) = &stored.verifier {
            self.iterations.store(verifier.iterations, Ordering::Relaxed);
        }
        Ok(Some(Arc::new(stored)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup() -> Lookup {
        Lookup::new(Options { auth_query: "SELECT".into(), ..Options::default() })
    }

    fn answer(lookup: &Lookup, user: &str, stored: Option<Arc<Stored>>, now: Instant) {
        let until = now + Duration::from_secs(60);
        let entry = lookup.entry(user, now);
        entry.answer.set(Answer { stored, until }).unwrap();
    }

    #[test]
    fn an_answer_is_doubted_once_in_its_time() {
        let lookup = lookup();
        let now = Instant::now();
        let first = Arc::<Stored>::default();
        answer(&lookup, "app", Some(first.clone()), now);
        assert!(lookup.entry("app", now).answer.initialized());
        lookup.doubt("app", &first);
        assert!(!lookup.entry("app", now).answer.initialized(), "asked again");
        let second = Arc::<Stored>::default();
        answer(&lookup, "app", Some(second.clone()), now);
        // one that failed with the first answer came late; one that failed with the second has had its turn
        lookup.doubt("app", &first);
        lookup.doubt("app", &second);
        assert!(lookup.entry("app", now).answer.initialized());
        // after its time all begins anew
        let later = now + Duration::from_secs(61);
        answer(&lookup, "app", Some(second.clone()), later);
        lookup.doubt("app", &second);
        assert!(!lookup.entry("app", later).answer.initialized());
    }

    #[test]
    fn made_up_names_do_not_push_users_out() {
        let lookup = lookup();
        let now = Instant::now();
        answer(&lookup, "app", Some(Arc::default()), now);
        for i in 0..3 * MAX_ANSWERS {
            answer(&lookup, &format!("nobody{i}"), None, now);
        }
        assert!(lookup.answers.lock().unwrap().len() <= MAX_ANSWERS);
        assert!(lookup.entry("app", now).answer.initialized());
    }
}
