//! A protocol as a list of tasks, each to be done in a process of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::protocol::{Protocol, Setting};

/// One thing to measure. What it measures depends on nothing that another task did, but for
/// [`Quality`](Self::Quality), which needs the baseline's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Describe the machine, the engine and the files.
    Environment,
    /// Load, and answer every prompt.
    Speed {
        /// What.
        setting: Setting,
        /// The how-manieth time, counted from 0.
        repetition: u32,
    },
    /// Compare the text with the baseline's.
    Quality {
        /// What.
        setting: Setting,
    },
    /// Count which experts are used.
    ExpertUse {
        /// What.
        setting: Setting,
    },
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::Speed { setting, repetition } => {
                write!(f, "{} {} {}", setting.model, setting.policy, repetition + 1)
            }
            Self::Quality { setting } => write!(f, "{} {} quality", setting.model, setting.policy),
            Self::ExpertUse { setting } => write!(f, "{} experts", setting.model),
        }
    }
}

impl Protocol {
    /// All tasks, in the order in which they are done. Policies take turns (A B A B), and every
    /// second time in the opposite order, so that a machine that drifts does not favour one.
    pub fn tasks(&self) -> Vec<Task> {
        let mut tasks = vec![Task::Environment];
        for model in &self.models {
            let settings = self.settings(&model.name);
            for base in &settings {
                tasks.extend(self.speed_tasks(base));
            }
            let Some(first) = settings.first() else { continue };
            if self.quality.is_some() {
                // The baseline first: the others are compared with it.
                let others = self.policies.iter().filter(|policy| **policy != self.baseline);
                let policies = std::iter::once(&self.baseline).chain(others);
                tasks.extend(policies.map(|p| Task::Quality { setting: first.under(p) }));
            }
            if self.expert_use {
                tasks.push(Task::ExpertUse { setting: first.clone() });
            }
        }
        tasks
    }

    fn speed_tasks(&self, base: &Setting) -> impl Iterator<Item = Task> {
        (0..self.repetitions).flat_map(move |repetition| {
            let mut policies: Vec<_> = self.policies.iter().collect();
            if repetition % 2 == 1 {
                policies.reverse();
            }
            let of = |policy| Task::Speed { setting: base.under(policy), repetition };
            policies.into_iter().map(of).collect::<Vec<_>>()
        })
    }

    /// Every combination of sizes, under the baseline.
    fn settings(&self, model: &str) -> Vec<Setting> {
        let mut settings = Vec::new();
        for &context_tokens in &self.context_tokens {
            for &threads in &self.threads {
                settings.extend(self.micro_batch_tokens.iter().map(|&micro_batch_tokens| {
                    Setting {
                        model: model.to_owned(),
                        policy: self.baseline.clone(),
                        context_tokens,
                        threads,
                        micro_batch_tokens,
                    }
                }));
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelChoice, PolicyChoice};

    fn protocol() -> Protocol {
        let model = ModelChoice { name: "m".into(), path: "m.gguf".into() };
        let mut protocol = Protocol::new(vec![model]);
        let policy = |text: &str| text.parse::<PolicyChoice>().unwrap();
        protocol.policies = vec![policy("none"), policy("all-experts")];
        protocol.threads = vec![1, 2];
        protocol
    }

    #[test]
    fn policies_take_turns() {
        let order: String = protocol()
            .tasks()
            .iter()
            .filter_map(|task| match task {
                Task::Speed { setting, .. } if setting.policy.as_str() == "none" => Some('A'),
                Task::Speed { .. } => Some('B'),
                _ => None,
            })
            .collect();
        assert_eq!(order, "ABBAABBAABABBAABBAAB");
    }

    #[test]
    fn the_baseline_s_quality_comes_first() {
        let mut protocol = protocol();
        protocol.policies.reverse();
        let tasks = protocol.tasks();
        let first = tasks.iter().find_map(|task| match task {
            Task::Quality { setting } => Some(setting.policy.as_str()),
            _ => None,
        });
        assert_eq!((first, &tasks[0]), (Some("none"), &Task::Environment));
        assert_eq!(tasks.iter().filter(|t| matches!(t, Task::Quality { .. })).count(), 2);
    }

    /// Makes a good protocol bad.
    type Spoil = fn(&mut Protocol);

    #[test]
    fn protocols_are_checked_and_survive_as_data() {
        let good = protocol();
        good.check().unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), good);
        let spoilt: [(&str, Spoil); 4] = [
            ("version", |p| p.version = 0),
            ("repetitions", |p| p.repetitions = 0),
            ("twice", |p| p.policies.push(PolicyChoice::none())),
            ("baseline", |p| p.policies.retain(|policy| policy.as_str() != "none")),
        ];
        for (what, spoil) in spoilt {
            let mut protocol = good.clone();
            spoil(&mut protocol);
            let error = protocol.check().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
