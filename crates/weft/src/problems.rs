//! What the cluster asks for and can't be done, said once.

use std::collections::BTreeSet;

use tracing::{info, warn};
use weft_compile::Problem;

/// The problems there are, as far as they were said.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    said: BTreeSet<Problem>,
}

/// What became different since the last time.
#[derive(Debug, PartialEq, Eq)]
struct News {
    new: Vec<Problem>,
    over: Vec<Problem>,
}

impl Problems {
    /// Logs each new problem, and each that is over, once. `now` is all there are.
    pub(crate) fn report(&mut self, now: impl IntoIterator<Item = Problem>) {
        let News { new, over } = self.news(now);
        for Problem { object, reason } in new {
            warn!(%object, reason, "can't do what the cluster asks");
        }
        for Problem { object, reason } in over {
            info!(%object, reason, "no longer a problem");
        }
    }

    fn news(&mut self, now: impl IntoIterator<Item = Problem>) -> News {
        let now: BTreeSet<Problem> = now.into_iter().collect();
        let before = std::mem::take(&mut self.said);
        let news = News {
            new: now.difference(&before).cloned().collect(),
            over: before.difference(&now).cloned().collect(),
        };
        self.said = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Key, ObjectKey};

    use super::*;

    #[test]
    fn each_problem_is_said_once_and_once_when_it_is_over() {
        let problem = |name: &str| Problem {
            object: Key::Service(ObjectKey::new("default", name)),
            reason: "spec.type: NodePort".to_owned(),
        };
        let news = |new: &[&str], over: &[&str]| News {
            new: new.iter().copied().map(problem).collect(),
            over: over.iter().copied().map(problem).collect(),
        };
        let mut problems = Problems::default();
        let (a, b) = (problem("a"), problem("b"));
        assert_eq!(problems.news([a.clone()]), news(&["a"], &[]));
        // The watch lists everything again.
        assert_eq!(problems.news([a.clone()]), news(&[], &[]));
        assert_eq!(problems.news([b.clone(), a]), news(&["b"], &[]));
        assert_eq!(problems.news([b]), news(&[], &["a"]));
    }
}
