//! The gate: which one step may be taken next, so that no mail is ever at risk because of us. A pure state machine;
//! the reconciler observes, asks [`next`], carries out, and observes again.
//!
//! It keeps:
//! - one disruptive step at a time, and none while a node is not ready, a member is not reachable, or an entry has
//!   fewer copies than it should;
//! - a node is taken away only when it says that its mail is elsewhere (DESIGN 9);
//! - a broken pod with an old template may always be replaced: nothing gets worse, and that is how a bad image is
//!   rolled back; a broken pod with the *new* template stops the update.

#[cfg(test)]
mod tests;

/// A pod as the gate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub ordinal: i32,
    /// Made from the StatefulSet's newest template.
    pub current: bool,
    pub ready: bool,
    pub terminating: bool,
    /// Why it does not start, in Kubernetes' word, such as ImagePullBackOff.
    pub trouble: Option<String>,
}

/// What any node says of the mail cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub epoch: u64,
    pub under_replicated: u64,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub state: MemberState,
    pub reachable: bool,
    /// How far its mail was moved; None if nodes of this version cannot move mail.
    pub drain: Option<Drain>,
    /// What it says of its log; None if it did not answer.
    pub log: Option<Log>,
}

/// What a node says of the log that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    Good,
    /// The one before was put aside, because it was not what its peers had seen of it.
    Replaced {
        reason: String,
        /// Unix seconds.
        at: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    Joining,
    Active,
    Draining,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// It was not asked to.
    No,
    /// So many entries are not elsewhere yet.
    Moving(u64),
    /// Nothing lives only there.
    Done,
}

/// All that a decision depends on.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Nodes that the spec wants.
    pub wanted: i32,
    /// Nodes that the StatefulSet has.
    pub replicas: i32,
    pub pods: Vec<Pod>,
    /// Err: why no node could be asked.
    pub report: Result<Report, String>,
    /// The node that we asked to drain earlier, if any.
    pub draining: Option<String>,
    /// Nodes that we drained and took away, and whose disks are still there.
    pub drained: Vec<String>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Set the StatefulSet's number.
    ScaleTo(i32),
    /// Ask the node to move its mail away.
    Drain(String),
    /// It stays after all.
    CancelDrain(String),
    /// Delete the pod, so that it comes back with the newest template.
    Restart {
        pod: String,
        uid: String,
    },
}

/// What stands in the way of the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Kubernetes has not looked at the StatefulSet's newest template yet.
    TemplateUnseen,
    PodMissing(i32),
    PodTerminating(String),
    PodNotReady {
        pod: String,
        trouble: Option<String>,
    },
    NoNodeAnswers(String),
    MemberAway {
        name: String,
        state: Option<MemberState>,
    },
    UnderReplicated(u64),
    MailMoves {
        node: String,
        entries: u64,
    },
    DrainUnsupported {
        node: String,
    },
}

impl Waiting {
    /// One word, for conditions.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TemplateUnseen => "TemplateUnseen",
            Self::PodMissing(_) => "PodMissing",
            Self::PodTerminating(_) => "PodTerminating",
            Self::PodNotReady { .. } => "PodNotReady",
            Self::NoNodeAnswers(_) => "NoNodeAnswers",
            Self::MemberAway { .. } => "MemberAway",
            Self::UnderReplicated(_) => "UnderReplicated",
            Self::MailMoves { .. } => "MailMoves",
            Self::DrainUnsupported { .. } => "DrainUnsupported",
        }
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TemplateUnseen => write!(f, "waiting for Kubernetes to look at the newest template"),
            Self::PodMissing(ordinal) => write!(f, "waiting for pod {ordinal} to be made"),
            Self::PodTerminating(pod) => write!(f, "waiting for pod {pod} to end"),
            Self::PodNotReady { pod, trouble: None } => write!(f, "waiting for pod {pod} to get ready"),
            Self::PodNotReady { pod, trouble: Some(trouble) } => {
                write!(
                    f,
                    "waiting for pod {pod} to get ready, which has {trouble}; see kubectl describe pod {pod}"
                )
            }
            Self::NoNodeAnswers(why) => write!(f, "waiting for a node to answer: {why}"),
            Self::MemberAway { name, state: None } => write!(f, "waiting for node {name} to join"),
            Self::MemberAway { name, state: Some(state) } => {
                write!(f, "waiting for node {name}, which is {state:?} or not reachable from its peers")
            }
            Self::UnderReplicated(entries) => {
                write!(f, "waiting until {entries} entries have all their copies again")
            }
            Self::MailMoves { node, entries } => {
                write!(f, "waiting until the mail of node {node} is elsewhere: {entries} entries to move")
            }
            Self::DrainUnsupported { node } => {
                write!(
                    f,
                    "node {node} cannot be taken away, because nodes of this version cannot move their mail: \
                     set nodes back, or update the image"
                )
            }
        }
    }
}

/// The next step, and what is waited for before the one after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub step: Step,
    pub waiting: Option<Waiting>,
}

impl Decision {
    const fn act(step: Step) -> Self {
        Self { step, waiting: None }
    }

    const fn wait(waiting: Waiting) -> Self {
        Self { step: Step::Nothing, waiting: Some(waiting) }
    }
}

/// Decides.
pub fn next(situation: &Situation) -> Decision {
    if let Some(node) = cancelled_drain(situation) {
        return Decision::act(Step::CancelDrain(node));
    }
    if situation.wanted > situation.replicas {
        return Decision::act(Step::ScaleTo(situation.wanted));
    }
    if let Some(pod) = broken_and_outdated(situation) {
        return Decision::act(Step::Restart { pod: pod.name.clone(), uid: pod.uid.clone() });
    }
    let mut waiting = None;
    if situation.wanted < situation.replicas {
        let decision = scale_down(situation);
        if !matches!(decision.waiting, Some(Waiting::DrainUnsupported { .. })) {
            return decision;
        }
        // That will not change by waiting, and a newer image may be what it takes.
        waiting = decision.waiting;
    }
    let Some(pod) = outdated(situation) else {
        return match waiting.or_else(|| unsettled(situation, None)) {
            Some(waiting) => Decision::wait(waiting),
            None => Decision::act(Step::Nothing),
        };
    };
    match unsettled(situation, None) {
        Some(waiting) => Decision::wait(waiting),
        None => Decision { step: Step::Restart { pod: pod.name.clone(), uid: pod.uid.clone() }, waiting },
    }
}

/// We asked a node to drain that is to stay, because `nodes` was raised again, before it had gone or afterwards.
fn cancelled_drain(situation: &Situation) -> Option<String> {
    let stays = |node: &&String| {
        situation.pods.iter().any(|pod| pod.name == **node && pod.ordinal < situation.wanted)
    };
    let drains = |node: &&String| {
        let mut members = situation.report.iter().flat_map(|report| &report.members);
        members.any(|member| member.name == **node && member.state == MemberState::Draining)
    };
    let asked = situation.draining.iter().find(stays);
    asked.or_else(|| situation.drained.iter().filter(stays).find(drains)).cloned()
}

/// From the highest ordinal down, as StatefulSets do.
fn outdated(situation: &Situation) -> Option<&Pod> {
    situation.pods.iter().filter(|pod| !pod.current && !pod.terminating).max_by_key(|pod| pod.ordinal)
}

fn broken_and_outdated(situation: &Situation) -> Option<&Pod> {
    if situation.pods.iter().any(|pod| pod.terminating) {
        return None;
    }
    let broken = situation.pods.iter().filter(|pod| !pod.current && !pod.ready);
    broken.max_by_key(|pod| pod.ordinal)
}

/// Takes away the node with the highest ordinal, which is the only one that a StatefulSet can take away.
fn scale_down(situation: &Situation) -> Decision {
    let ordinal = situation.replicas - 1;
    let Some(node) = situation.pods.iter().find(|pod| pod.ordinal == ordinal) else {
        return Decision::wait(Waiting::PodMissing(ordinal));
    };
    if let Some(waiting) = unsettled(situation, Some(&node.name)) {
        return Decision::wait(waiting);
    }
    let Ok(report) = &situation.report else {
        return Decision::wait(Waiting::NoNodeAnswers("no report".into()));
    };
    let gone = Decision::act(Step::ScaleTo(ordinal));
    let member = report.members.iter().find(|member| member.name == node.name);
    match member.map(|member| (member.state, member.drain)) {
        // It holds nothing that is needed: no entry lacks a copy without it.
        None | Some((MemberState::Dead, _)) => gone,
        Some((_, None)) => Decision::wait(Waiting::DrainUnsupported { node: node.name.clone() }),
        Some((_, Some(Drain::No))) => Decision::act(Step::Drain(node.name.clone())),
        Some((_, Some(Drain::Moving(entries)))) => {
            Decision::wait(Waiting::MailMoves { node: node.name.clone(), entries })
        }
        Some((_, Some(Drain::Done))) => gone,
    }
}

/// Why nothing may be disturbed now; `except` is the node that is on its way out.
fn unsettled(situation: &Situation, except: Option<&str>) -> Option<Waiting> {
    let counts = |name: &str| except != Some(name);
    for ordinal in 0..situation.replicas {
        let Some(pod) = situation.pods.iter().find(|pod| pod.ordinal == ordinal) else {
            return Some(Waiting::PodMissing(ordinal));
        };
        if !counts(&pod.name) {
            continue;
        }
        if pod.terminating {
            return Some(Waiting::PodTerminating(pod.name.clone()));
        }
        if !pod.ready {
            return Some(Waiting::PodNotReady { pod: pod.name.clone(), trouble: pod.trouble.clone() });
        }
    }
    // The last scale-down is still under way.
    if let Some(pod) = situation.pods.iter().find(|pod| pod.ordinal >= situation.replicas) {
        return Some(Waiting::PodTerminating(pod.name.clone()));
    }
    let report = match &situation.report {
        Ok(report) => report,
        Err(why) => return Some(Waiting::NoNodeAnswers(why.clone())),
    };
    for pod in situation.pods.iter().filter(|pod| counts(&pod.name)) {
        let member = report.members.iter().find(|member| member.name == pod.name);
        let serves = |member: &Member| {
            matches!(member.state, MemberState::Active | MemberState::Draining) && member.reachable
        };
        if !member.is_some_and(serves) {
            let state = member.map(|member| member.state);
            return Some(Waiting::MemberAway { name: pod.name.clone(), state });
        }
    }
    (report.under_replicated > 0).then_some(Waiting::UnderReplicated(report.under_replicated))
}
