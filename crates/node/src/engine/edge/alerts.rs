//! The alerts that rules raise: bounded in number, and gone when their rule has not held for a while. Pure.

/// Most alerts that stand at once; the one that was longest not renewed goes first.
pub(super) const ALERTS_MAX: usize = 64;

/// What an alert is about: a rule and a stream of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) rule: usize,
    pub(super) caller: u32,
    pub(super) session: u64,
    pub(super) stream: u64,
}

#[derive(Debug)]
struct Standing {
    about: About,
    text: String,
    times: u64,
    last_ms: u64,
    until_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Alerts {
    /// Those renewed last stand last.
    standing: Vec<Standing>,
}

impl Alerts {
    /// Raises or renews an alert; `text` is called for a new one. Gives whether no alert of this rule stood before.
    pub(super) fn raise(&mut self, now_ms: u64, for_ms: u64, about: About, text: impl FnOnce() -> String) -> bool {
        self.standing.retain(|alert| alert.until_ms > now_ms);
        let first = self.standing.iter().all(|alert| alert.about.rule != about.rule);
        let until_ms = now_ms.saturating_add(for_ms);
        let mut alert = match self.standing.iter().position(|alert| alert.about == about) {
            Some(at) => self.standing.remove(at),
            None => Standing { about, text: text(), times: 0, last_ms: 0, until_ms },
        };
        alert.times += 1;
        (alert.last_ms, alert.until_ms) = (now_ms, until_ms);
        self.standing.push(alert);
        if self.standing.len() > ALERTS_MAX {
            self.standing.remove(0);
        }
        first
    }

    /// The sentences that stand now.
    pub(super) fn sentences(&self, now_ms: u64) -> Vec<String> {
        let standing = self.standing.iter().filter(|alert| alert.until_ms > now_ms);
        let sentence = |alert: &Standing| {
            let ago_s = now_ms.saturating_sub(alert.last_ms) / 1000;
            format!("{} ({} times, last {ago_s} s ago)", alert.text, alert.times)
        };
        standing.map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(rule: usize, stream: u64) -> About {
        About { rule, caller: 1, session: 0, stream }
    }

    #[test]
    fn an_alert_stands_for_its_time_and_is_renewed() {
        let mut alerts = Alerts::default();
        assert!(alerts.raise(1_000, 500, about(0, 1), || "near".to_owned()));
        assert!(!alerts.raise(1_400, 500, about(0, 1), || unreachable!("it stands already")));
        assert!(!alerts.raise(1_400, 500, about(0, 2), || "near too".to_owned()), "one of this rule stood");
        assert!(alerts.raise(1_400, 5_000, about(1, 2), || "far".to_owned()));
        assert_eq!(alerts.sentences(1_899).len(), 3);
        assert_eq!(alerts.sentences(1_899)[0], "near (2 times, last 0 s ago)");
        assert_eq!(alerts.sentences(2_500), ["far (1 times, last 1 s ago)"]);
        assert!(alerts.raise(2_500, 500, about(0, 1), || "again".to_owned()));
        assert_eq!(alerts.sentences(2_500)[1], "again (1 times, last 0 s ago)");
    }

    #[test]
    fn nobody_fills_the_list() {
        let mut alerts = Alerts::default();
        for stream in 0..1_000 {
            alerts.raise(stream, 60_000, about(0, stream), || stream.to_string());
            assert!(alerts.standing.len() <= ALERTS_MAX);
        }
        assert!(alerts.sentences(1_000)[ALERTS_MAX - 1].starts_with("999 "));
    }
}
