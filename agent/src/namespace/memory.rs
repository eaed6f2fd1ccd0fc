//! What origins said lately: pages, files, and that there is none.
//!
//! One question at a time for each page and file, whoever asks; an answer holds for the time to live, and
//! beyond it when the origin cannot be asked, or says nothing. Bounded by what answers weigh, the one used longest ago first.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::kept;
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{
        Origins,
        catalogue::{Catalogue, Listed, ListedPage, PageRequest},
    },
    reference::Reference,
    store::Store,
};

/// Bytes of pages remembered.
const PAGES_BYTES_MAX: usize = 24 << 20;
/// Files remembered by themselves, and names known to be missing.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(16384).unwrap();
/// Catalogues kept open.
const CATALOGUES_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// An origin that could not be asked is left alone for so long while old answers do.
const GONE_FOR: Duration = Duration::from_secs(5);

/// One that says nothing is left alone for so long: a path of several names is looked up name by name.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// An answer, and whether it is from before the origin could not be asked.
pub(super) struct Known<T> {
    pub(super) value: Arc<T>,
    pub(super) stale: bool,
}

type Answer<T> = std::result::Result<Arc<T>, Arc<Error>>;

/// What came of a question.
enum Heard<'a, T> {
    Answer(&'a Answer<T>),
    /// What was known before.
    Nothing(Result<Known<T>>),
}

/// One question.
struct Slot<T> {
    asked: Instant,
    answer: Arc<OnceCell<Answer<T>>>,
    /// What was answered before, for when the origin is gone.
    before: Option<Arc<T>>,
}

struct Opened {
    since: Instant,
    catalogue: Arc<dyn Catalogue>,
}

/// Remembers.
pub(super) struct Memory {
    origins: Origins,
    store: Store,
    ttl: Duration,
    catalogues: Mutex<LruCache<Reference, Opened>>,
    pages: Mutex<Pages>,
    files: Mutex<LruCache<(Reference, String), Slot<Listed>>>,
    /// When origins were found silent.
    silent: Mutex<LruCache<Reference, Instant>>,
}

struct Pages {
    slots: LruCache<(Reference, PageRequest), Slot<ListedPage>>,
}

impl Memory {
    pub(super) fn new(origins: Origins, store: Store, ttl: Duration) -> Self {
        Self {
            origins,
            store,
            ttl,
            catalogues: Mutex::new(LruCache::new(CATALOGUES_MAX)),
            pages: Mutex::new(Pages { slots: LruCache::unbounded() }),
            files: Mutex::new(LruCache::new(FILES_MAX)),
            silent: Mutex::new(LruCache::new(CATALOGUES_MAX)),
        }
    }

    /// One page. Cancel-safe.
    pub(super) async fn page(&self, root: &Reference, request: &PageRequest) -> Result<Known<ListedPage>> {
        let key = (root.clone(), request.clone());
        let (cell, before) = {
            let mut pages = self.pages.lock();
            join(&mut pages.slots, key.clone(), self.ttl)
        };
        let asked = cell.get_or_init(|| async {
            let catalogue = self.catalogue(root).map_err(Arc::new)?;
            let answer = catalogue.page(request).await.map(Arc::new).map_err(Arc::new);
            self.pages.lock().shrink(answer.as_ref().map_or(0, |page| weight_of(page)));
            answer
        });
        let known = || {
            let kept = || kept::page(&self.store, root, request).map(Arc::new);
            before.clone().or_else(kept).map(|value| Ok(Known { value, stale: true }))
        };
        let answer = match self.heard(root, cell.initialized(), asked, known).await {
            Heard::Answer(answer) => answer,
            Heard::Nothing(known) => return known,
        };
        let before = match before {
            None if is_gone(answer) => kept::page(&self.store, root, request).map(Arc::new),
            before => before,
        };
        settle(answer, before, || hold(&mut self.pages.lock().slots, &key, self.ttl))
    }

    /// One file. Cancel-safe.
    pub(super) async fn file(&self, root: &Reference, name: &str) -> Result<Known<Listed>> {
        let key = (root.clone(), name.to_owned());
        let (cell, before) = join(&mut self.files.lock(), key.clone(), self.ttl);
        let asked = cell.get_or_init(|| async {
            let catalogue = self.catalogue(root).map_err(Arc::new)?;
            catalogue.file(name).await.map(Arc::new).map_err(Arc::new)
        });
        let known = || {
            let kept = || kept::file(&self.store, root, name).map(Arc::new);
            let file = before.clone().or_else(kept).map(|value| Ok(Known { value, stale: true }));
            file.or_else(|| {
                // What has files below it is none itself.
                let below =
                    PageRequest { prefix: format!("{name}/"), delimited: true, start_after: None, limit: 1 };
                let page = kept::page(&self.store, root, &below)?;
                let is_directory = !page.names.is_empty();
                is_directory
                    .then(|| Err(Error::new(ErrorKind::NotFound, format!("{name} is no file of {root}"))))
            })
        };
        let answer = match self.heard(root, cell.initialized(), asked, known).await {
            Heard::Answer(answer) => answer,
            Heard::Nothing(known) => return known,
        };
        let before = match before {
            None if is_gone(answer) => kept::file(&self.store, root, name).map(Arc::new),
            before => before,
        };
        settle(answer, before, || hold(&mut self.files.lock(), &key, self.ttl))
    }

    /// The answer, or, where something is known, that after a while of silence. Where nothing is, the origin is
    /// waited for.
    async fn heard<'a, T: 'a>(
        &self,
        root: &Reference,
        is_answered: bool,
        asked: impl Future<Output = &'a Answer<T>>,
        known: impl Fn() -> Option<Result<Known<T>>>,
    ) -> Heard<'a, T> {
        let is_silent = self.silent.lock().get(root).is_some_and(|since| since.elapsed() < SILENT_FOR);
        if is_silent
            && !is_answered
            && let Some(known) = known()
        {
            return Heard::Nothing(known);
        }
        tokio::pin!(asked);
        let patience = self.origins.patience(root);
        match self.origins.unless_silent(root, patience, asked.as_mut()).await {
            Some(answer) => Heard::Answer(answer),
            None => match known() {
                Some(known) => {
                    let seconds = patience.as_secs();
                    tracing::warn!(origin = %root, seconds, "the origin does not answer: what it said before is shown");
                    self.silent.lock().put(root.clone(), Instant::now());
                    Heard::Nothing(known)
                }
                None => Heard::Answer(asked.await),
            },
        }
    }

    /// Forgets everything about an origin.
    pub(super) fn forget(&self, root: &Reference) {
        self.catalogues.lock().pop(root);
        let mut pages = self.pages.lock();
        let gone: Vec<_> =
            pages.slots.iter().map(|(key, _)| key).filter(|(r, _)| r == root).cloned().collect();
        gone.iter().for_each(|key| drop(pages.slots.pop(key)));
        drop(pages);
        let mut files = self.files.lock();
        let gone: Vec<_> = files.iter().map(|(key, _)| key).filter(|(r, _)| r == root).cloned().collect();
        gone.iter().for_each(|key| drop(files.pop(key)));
    }

    /// Some catalogues are one listing: they are opened anew when that is old.
    fn catalogue(&self, root: &Reference) -> Result<Arc<dyn Catalogue>> {
        let mut open = self.catalogues.lock();
        if let Some(opened) = open.get(root)
            && opened.since.elapsed() < self.ttl
        {
            return Ok(opened.catalogue.clone());
        }
        let catalogue = self.origins.catalogue(root)?;
        open.put(root.clone(), Opened { since: Instant::now(), catalogue: catalogue.clone() });
        Ok(catalogue)
    }
}

impl Pages {
    /// Lets the pages used longest ago go until `more` bytes fit beside what is left.
    fn shrink(&mut self, more: usize) {
        let weight = |slot: &Slot<ListedPage>| {
            let page = slot.answer.get().and_then(|answer| answer.as_ref().ok()).or(slot.before.as_ref());
            page.map_or(512, |page| weight_of(page))
        };
        let mut total: usize = more + self.slots.iter().map(|(_, slot)| weight(slot)).sum::<usize>();
        while total > PAGES_BYTES_MAX {
            let Some((_, slot)) = self.slots.pop_lru() else { return };
            total -= weight(&slot);
        }
    }
}

/// Names are short; the structure around each is what counts.
fn weight_of(page: &ListedPage) -> usize {
    512 + page.names.iter().map(|name| 256 + name.key().len()).sum::<usize>()
}

/// The question under way or answered lately, else a new one; and what was answered before.
fn join<K: std::hash::Hash + Eq + Clone, T>(
    slots: &mut LruCache<K, Slot<T>>,
    key: K,
    ttl: Duration,
) -> (Arc<OnceCell<Answer<T>>>, Option<Arc<T>>) {
    let before = match slots.get(&key) {
        // A question still under way is joined, however old it is.
        Some(slot) if !slot.answer.initialized() || slot.asked.elapsed() < ttl => {
            return (slot.answer.clone(), slot.before.clone());
        }
        Some(slot) => match slot.answer.get() {
            Some(Ok(value)) => Some(value.clone()),
            // What is not there any more is no memory to come back to.
            Some(Err(e)) if !e.kind().is_transient() => None,
            Some(Err(_)) | None => slot.before.clone(),
        },
        None => None,
    };
    let answer = Arc::new(OnceCell::new());
    slots.put(key, Slot { asked: Instant::now(), answer: answer.clone(), before: before.clone() });
    (answer, before)
}

/// An origin that cannot be asked is asked again soon, not after the whole time to live.
fn hold<K: std::hash::Hash + Eq, T>(slots: &mut LruCache<K, Slot<T>>, key: &K, ttl: Duration) {
    if let Some(slot) = slots.peek_mut(key) {
        slot.asked = Instant::now().checked_sub(ttl.saturating_sub(GONE_FOR)).unwrap_or(slot.asked);
    }
}

fn is_gone<T>(answer: &Answer<T>) -> bool {
    answer.as_ref().is_err_and(|e| e.kind().is_transient())
}

fn settle<T>(answer: &Answer<T>, before: Option<Arc<T>>, hold: impl FnOnce()) -> Result<Known<T>> {
    match answer {
        Ok(value) => Ok(Known { value: value.clone(), stale: false }),
        Err(e) => {
            let is_passing = e.kind().is_transient();
            if is_passing {
                hold();
            }
            match before.filter(|_| is_passing) {
                Some(value) => Ok(Known { value, stale: true }),
                None => Err(shared(e)),
            }
        }
    }
}

/// An error that several who asked get to see.
fn shared(e: &Arc<Error>) -> Error {
    Error::new(e.kind(), e.to_string())
}
