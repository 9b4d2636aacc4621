//! The problem that a plan solves, and attempts at it: what goes where, once and for all devices together.

use super::assignment::{Assignment, Place, layer_cache, stored};
use super::default_place::{self, DefaultPlace, Resolved, is_tied_embedding};
use super::fit::Candidate;
use super::kv_cache::KvCache;
use super::rules::Rule;
use super::split::{self, Demand};
use super::{CPU, ContextOptions, Device, ModelSummary, Plan, RuleMatch, compute_reserve};
use crate::device::DeviceMemory;
use crate::error::{Error, Result};
use crate::experts::{ExpertMap, TensorKind};
use crate::gguf::GgufFile;
use crate::policy::{Fit, FitLimit, OffloadPolicy};

/// Where the bytes of compute buffers come from.
pub(crate) enum Compute<'a> {
    /// The cautious formula.
    Formula,
    /// Measured for another plan of the same model.
    Assumed(Vec<DeviceMemory>),
    /// The engine's dry runs, and what the last of them said.
    #[cfg_attr(not(feature = "llama"), allow(dead_code))] // made where there is an engine
    DryRun { ask: AskEngine<'a>, last: Vec<DeviceMemory> },
}

/// Measures what the engine would allocate for a plan.
pub(crate) type AskEngine<'a> = &'a mut dyn FnMut(&Plan) -> Result<Vec<DeviceMemory>>;

impl Compute<'_> {
    /// What the engine would allocate, if there is one to ask.
    pub(super) fn dry_run(&mut self, plan: &Plan) -> Result<Option<Vec<DeviceMemory>>> {
        // Beyond its limit the engine would read what is not there.
        plan.check_device_count()?;
        let Self::DryRun { ask, last } = self else { return Ok(None) };
        *last = ask(plan)?;
        Ok(Some(last.clone()))
    }

    /// As good a guess as there is without asking the engine again.
    pub(super) fn assumed(&self) -> Self {
        match self {
            Self::Assumed(rows) | Self::DryRun { last: rows, .. } if !rows.is_empty() => {
                Self::Assumed(rows.clone())
            }
            _ => Self::Formula,
        }
    }
}

/// Everything about a plan that is given.
pub(super) struct Problem<'a> {
    pub(super) policy: &'a OffloadPolicy,
    pub(super) gguf: &'a GgufFile,
    pub(super) devices: &'a [Device],
    pub(super) experts: ExpertMap,
    pub(super) rules: Vec<Rule>,
    pub(super) cache: Option<KvCache>,
    pub(super) model: ModelSummary,
}

/// What `fit` may change beside the places of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) context: ContextOptions,
    /// So many of the first layers are computed on the CPU.
    pub(super) host_layers: u32,
}

impl Problem<'_> {
    fn attempt<'a>(&'a self, sizes: &'a Sizes, limit: FitLimit) -> Result<Attempt<'a>> {
        let host_layers = sizes.host_layers as usize;
        let (resolved, rules) =
            default_place::resolve_all(&self.experts, &self.rules, host_layers)?;
        let overhead =
            |device: &Device| device.overhead.bytes_of(self.gguf, &self.experts, &sizes.context);
        let overheads = self.devices.iter().map(overhead).collect();
        Ok(Attempt { problem: self, sizes, limit, overheads, resolved, rules })
    }

    /// The plan of a policy without `fit`: layers are dealt out as the engine would.
    pub(super) fn as_the_engine_deals(
        &self,
        sizes: &Sizes,
        compute: &mut Compute<'_>,
    ) -> Result<Plan> {
        let attempt = self.attempt(sizes, FitLimit::Free)?;
        let mut plan = attempt.plan(&attempt.proportional());
        if let Some(exact) = compute.dry_run(&plan)? {
            plan.refine(&exact);
        }
        Ok(plan)
    }

    /// The plan with as many experts on the devices as fit.
    ///
    /// Where experts go changes the compute buffers a little, and these change where experts fit:
    /// measured with all of them on the CPU, then solved and measured again until it holds, and
    /// once more if smaller buffers than thought leave room for more.
    pub(super) fn fitted(
        &self,
        sizes: &Sizes,
        fit: &Fit,
        compute: &mut Compute<'_>,
    ) -> Result<Plan> {
        let attempt = self.attempt(sizes, fit.limit)?;
        let mut minimal = attempt.minimal(&attempt.split(&[])?);
        let mut known = match compute {
            Compute::Assumed(rows) => rows.clone(),
            _ => compute.dry_run(&minimal)?.unwrap_or_default(),
        };
        minimal.refine(&known);
        let outcome = Self::settled(&attempt, &mut known, compute);
        // Buffers may grow with the first expert on a device by more than there is room for.
        let no_better = matches!(outcome, Err(Error::DoesNotFit { .. }));
        match compute {
            Compute::DryRun { .. } if no_better => attempt.check(minimal).or(outcome),
            _ => outcome,
        }
    }

    /// Solves and measures until it holds.
    fn settled(
        attempt: &Attempt<'_>,
        known: &mut Vec<DeviceMemory>,
        compute: &mut Compute<'_>,
    ) -> Result<Plan> {
        const ROUNDS: usize = 6;
        let mut best: Option<Plan> = None;
        let mut rounds = 0;
        loop {
            let solved = attempt.solve(&attempt.split(known)?, known);
            let mut plan = match (solved, best) {
                (Err(_), Some(best)) => return Ok(best),
                (solved, earlier) => {
                    best = earlier;
                    solved?
                }
            };
            let Some(exact) = compute.dry_run(&plan)? else { return Ok(plan) };
            plan.refine(&exact);
            rounds += 1;
            let checked = attempt.check(plan);
            let rose = DeviceMemory::raise(known, &exact);
            match (checked, best.take()) {
                (Err(failure), None) if !rose || rounds == ROUNDS => return Err(failure),
                (Err(_), Some(best)) if !rose || rounds == ROUNDS => return Ok(best),
                (Err(_), earlier) => best = earlier,
                (Ok(plan), None) if attempt.has_room(&plan)? && rounds < ROUNDS => {
                    *known = exact;
                    best = Some(plan);
                }
                (Ok(plan), Some(best))
                    if best.expert_bytes_on_devices() > plan.expert_bytes_on_devices() =>
                {
                    return Ok(best);
                }
                (Ok(plan), _) => return Ok(plan),
            }
        }
    }
}

/// A try at the problem with given sizes.
struct Attempt<'a> {
    problem: &'a Problem<'a>,
    sizes: &'a Sizes,
    limit: FitLimit,
    /// What each device takes beyond weights, cache and compute buffers, if it is used.
    overheads: Vec<u64>,
    resolved: Vec<Resolved>,
    rules: Vec<RuleMatch>,
}

/// For each layer and then the output a device's index, or `None` for the CPU.
type Layout = Vec<Option<usize>>;

impl Attempt<'_> {
    fn proportional(&self) -> Layout {
        if self.problem.devices.is_empty() {
            return Layout::new();
        }
        let layers = self.problem.experts.layers() as usize + 1;
        let host = self.sizes.host_layers as usize;
        self.on_devices(&split::proportional(layers - host, self.problem.devices))
    }

    /// The layout that fits most experts, or, if there is none, one that shows what lacks.
    fn split(&self, known: &[DeviceMemory]) -> Result<Layout> {
        if self.problem.devices.len() < 2 || self.problem.cache.is_none() {
            return Ok(self.proportional());
        }
        let best = split::balanced(&self.demands(known)?);
        Ok(best.map_or_else(|| self.proportional(), |split| self.on_devices(&split)))
    }

    fn on_devices(&self, split: &[usize]) -> Layout {
        let host = std::iter::repeat_n(None, self.sizes.host_layers as usize);
        host.chain(split.iter().copied().map(Some)).collect()
    }

    fn assignment(&self, layout: &Layout) -> Assignment<'_> {
        let layer_devices = layout.clone();
        Assignment { devices: self.problem.devices, resolved: &self.resolved, layer_devices }
    }

    fn draft(&self, assignment: &Assignment<'_>, places: &[Place]) -> Plan {
        let problem = self.problem;
        let mut plan = Plan {
            policy: problem.policy.clone(),
            model: problem.model.clone(),
            context: self.sizes.context.clone(),
            devices: Vec::new(),
            rules: self.rules.clone(),
            tensors: Vec::new(),
            copies: assignment.copies(&problem.experts),
            decisions: Vec::new(),
            disk: None,
            layer_devices: assignment.layer_devices.clone(),
        };
        plan.fill(assignment, &problem.experts, places, problem.cache.as_ref());
        for (planned, &bytes) in std::iter::zip(&mut plan.devices, &self.overheads) {
            planned.overhead_bytes = if planned.is_used() { bytes } else { 0 };
            planned.recompute_total();
        }
        plan
    }

    /// Every tensor in its default place.
    fn plan(&self, layout: &Layout) -> Plan {
        let assignment = self.assignment(layout);
        self.draft(&assignment, &assignment.place_all())
    }

    /// With everything that `fit` decides over on the CPU.
    fn minimal(&self, layout: &Layout) -> Plan {
        let assignment = self.assignment(layout);
        let mut places = assignment.place_all();
        for (place, resolved) in std::iter::zip(&mut places, &self.resolved) {
            if resolved.is_candidate {
                *place = Place::Cpu;
            }
        }
        self.draft(&assignment, &places)
    }

    /// With as many experts on the devices as fit beside what is known of the compute buffers.
    fn solve(&self, layout: &Layout, known: &[DeviceMemory]) -> Result<Plan> {
        let assignment = self.assignment(layout);
        let mut places = assignment.place_all();
        let reserve = compute_reserve(self.problem.gguf, &self.sizes.context);
        let mut full = self.draft(&assignment, &places);
        full.reserve(reserve);
        full.assume(known);
        assignment.fit(&self.problem.experts, &mut places, full.devices(), self.limit)?;
        let mut plan = self.draft(&assignment, &places);
        plan.reserve(reserve);
        plan.assume(known);
        Ok(plan)
    }

    /// Whether every device keeps its limit.
    fn check(&self, plan: Plan) -> Result<Plan> {
        for (device, planned) in std::iter::zip(self.problem.devices, plan.devices()) {
            let free_bytes = device.limit_bytes(self.limit)?;
            if planned.total_bytes > free_bytes {
                let (device, needed_bytes) = (device.name.clone(), planned.total_bytes);
                let (compute_bytes, policy) = (planned.buffer_bytes(), String::new());
                return Err(Error::DoesNotFit {
                    device,
                    needed_bytes,
                    free_bytes,
                    compute_bytes,
                    policy,
                });
            }
        }
        Ok(plan)
    }

    /// Whether experts that are on the CPU take no more than what their device has left.
    fn has_room(&self, plan: &Plan) -> Result<bool> {
        let assignment = self.assignment(&plan.layer_devices);
        let by_default = assignment.place_all();
        for (i, (device, planned)) in
            std::iter::zip(self.problem.devices, plan.devices()).enumerate()
        {
            let left = device.limit_bytes(self.limit)?.saturating_sub(planned.total_bytes);
            let candidates = assignment.candidates(i, device, &self.problem.experts, &by_default);
            let is_out = |candidate: &Candidate| plan.tensors()[candidate.tensors[0]].device == CPU;
            if candidates.iter().any(|candidate| is_out(candidate) && candidate.bytes <= left) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the layers that are not the CPU's want of each device.
    fn demands(&self, known: &[DeviceMemory]) -> Result<Vec<Demand>> {
        let reserve = compute_reserve(self.problem.gguf, &self.sizes.context);
        let host = self.sizes.host_layers as usize;
        let demand = |(index, device): (usize, &Device)| {
            let measured = known.iter().find(|row| row.name == device.name);
            let compute = measured.map_or(reserve, |row| row.compute_bytes);
            let taken = compute.saturating_add(self.overheads[index]);
            let mut room = device.limit_bytes(self.limit)?.checked_sub(taken);
            let layers = self.problem.experts.layers() as usize + 1;
            let mut demand =
                Demand { room: None, fixed: vec![0; layers], experts: vec![0; layers] };
            let tensors = std::iter::zip(self.problem.experts.tensors(), &self.resolved);
            for (i, (tensor, resolved)) in tensors.enumerate() {
                let bytes = device.padded(stored(&self.problem.experts, i));
                let is_copied = !resolved.by_rule
                    && tensor.kind == TensorKind::Input
                    && is_tied_embedding(&self.problem.experts, tensor);
                match resolved.default_place {
                    DefaultPlace::WithLayer(layer) if resolved.is_candidate => {
                        demand.experts[layer] += bytes;
                    }
                    DefaultPlace::WithLayer(layer) => demand.fixed[layer] += bytes,
                    DefaultPlace::Device(at) if at == index => {
                        room = room.and_then(|n| n.checked_sub(bytes));
                    }
                    DefaultPlace::Cpu if is_copied => demand.fixed[layers - 1] += bytes,
                    _ => {}
                }
                if tensor.kind == TensorKind::EveryLayer {
                    room = room.and_then(|room| room.checked_sub(bytes));
                }
            }
            let context = &self.sizes.context;
            let cache = self.problem.cache.iter().flat_map(KvCache::layers).enumerate();
            for (layer, cache) in cache.filter(|_| !context.cache_on_host) {
                let bytes = layer_cache(Some(device), cache, context).unwrap_or(u64::MAX);
                demand.fixed[layer] = demand.fixed[layer].saturating_add(bytes);
            }
            demand.room = room;
            demand.fixed.drain(..host);
            demand.experts.drain(..host);
            Ok(demand)
        };
        self.problem.devices.iter().enumerate().map(demand).collect()
    }
}
