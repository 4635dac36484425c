//! Fair shares of the pending bytes. Events beyond a project's share are displaced by other
//! projects.

use super::batch::event_cost;
use super::project_queue::ProjectQueue;
use super::{Ack, Delivery, EventCounts};
use crate::keen::bulk::Event;
use std::collections::BinaryHeap;
use std::mem::take;

/// Indices of the projects with pending bytes, in order. The others cost nothing.
#[derive(Debug, Default)]
pub(super) struct ActiveProjects(Vec<usize>);

impl ActiveProjects {
    fn insert(&mut self, index: usize) {
        if let Err(position) = self.0.binary_search(&index) {
            self.0.insert(position, index);
        }
    }

    fn remove(&mut self, index: usize) {
        if let Ok(position) = self.0.binary_search(&index) {
            self.0.remove(position);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first at or after `index`. After the last, the first follows.
    pub(super) fn first_from(&self, index: usize) -> Option<usize> {
        let position = self.0.partition_point(|active| *active < index);
        self.0.get(position).or_else(|| self.0.first()).copied()
    }
}

impl Delivery {
    /// Counts bytes that become pending.
    pub(super) fn charge(&mut self, destination_index: usize, bytes: usize) {
        let Some(project) = self.projects.get_mut(destination_index) else { return };
        if project.pending_bytes == 0 {
            self.active_projects.insert(destination_index);
        }
        project.pending_bytes = project.pending_bytes.saturating_add(bytes);
        self.pending_bytes = self.pending_bytes.saturating_add(bytes);
    }

    /// Counts bytes that are no longer pending.
    pub(super) fn release(&mut self, destination_index: usize, bytes: usize) {
        let Some(project) = self.projects.get_mut(destination_index) else { return };
        if project.pending_bytes > 0 && project.pending_bytes <= bytes {
            self.active_projects.remove(destination_index);
        }
        project.pending_bytes = project.pending_bytes.saturating_sub(bytes);
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
    }

    /// Returns whether each project would be within its fair share of `limit` with these costs, and
    /// that share.
    pub(super) fn is_within_share(&self, costs: &[usize], limit: usize) -> (bool, usize) {
        let pending = self.projects.iter().map(|project| project.pending_bytes);
        let mut charged = pending.zip(costs).filter(|(_, cost)| **cost > 0);
        let new = charged.clone().filter(|(pending, _)| *pending == 0).count();
        let share =
            limit.checked_div(self.active_projects.len().saturating_add(new)).unwrap_or(limit);
        (charged.all(|(pending, cost)| pending.saturating_add(*cost) <= share), share)
    }

    /// Displaces events of other projects beyond their fair share, for a request of `cost` bytes
    /// that does not fit. Returns false, and displaces nothing, if the request has no claim to that
    /// much.
    ///
    /// A request within its projects' shares displaces events without a waiter first, then events
    /// with one. Any request of a client displaces events without a waiter, if its projects are
    /// healthy.
    pub(super) fn make_room<'e>(
        &mut self,
        attended: bool,
        events: impl Iterator<Item = Event<'e>>,
        cost: usize,
    ) -> bool {
        let limit = self.settings.max_pending_bytes;
        if cost > limit {
            return false;
        }
        let costs = self.costs_by_project(events);
        let (is_within_share, share) = self.is_within_share(&costs, limit);
        let is_healthy =
            self.projects.iter().zip(&costs).all(|(p, cost)| *cost == 0 || !p.is_unhealthy());
        let over_share = |p: &ProjectQueue| p.pending_bytes.saturating_sub(share);
        if !is_within_share {
            let displaceable =
                self.projects.iter().map(|p| over_share(p).min(p.unattended_bytes()));
            let displaceable = displaceable.fold(0, usize::saturating_add);
            let capacity = limit.saturating_sub(self.pending_bytes).saturating_add(displaceable);
            if !(attended && is_healthy) || capacity < cost {
                return false;
            }
        }
        let mut by_excess: Vec<(usize, usize)> =
            self.projects.iter().map(over_share).zip(0..).collect();
        by_excess.retain(|(excess, _)| *excess > 0);
        // The standard library's sorts would add several kilobytes to the module. The heap is
        // already part of it.
        let by_excess = BinaryHeap::from(by_excess).into_sorted_vec();
        for unattended in [true, false] {
            for (_, index) in by_excess.iter().rev() {
                while self.pending_bytes.saturating_add(cost) > limit
                    && self.projects.get(*index).is_some_and(|p| over_share(p) > 0)
                    && (unattended || is_within_share)
                {
                    if !self.displace(*index, unattended) {
                        break;
                    }
                }
            }
        }
        self.pending_bytes.saturating_add(cost) <= limit
    }

    /// Displaces one batch of a project, or its part without waiters. Returns false if there is
    /// none.
    pub(super) fn displace(&mut self, destination_index: usize, unattended: bool) -> bool {
        let Some(project) = self.projects.get_mut(destination_index) else { return false };
        let queued =
            if unattended { project.displace_unattended() } else { project.displace_any() };
        let batch = queued.or_else(|| {
            // The callout continues, but no longer settles events of its batch.
            let mut in_flight = self.in_flight.values_mut();
            let found = in_flight.find(|callout| {
                let batch = &callout.batch;
                callout.destination_index == destination_index
                    && !batch.is_empty()
                    && !(unattended && batch.has_waiters())
            });
            found.map(|callout| take(&mut callout.batch))
        });
        let batch = batch.or_else(|| self.displace_handover(destination_index, unattended));
        let Some(batch) = batch else { return false };
        self.release(destination_index, batch.pending_cost());
        let counts = EventCounts {
            unconfirmed: self.waiters.settle_batch(&batch, Ack::Unconfirmed),
            displaced: batch.count(false),
            dropped: 0,
        };
        self.add_unreported(destination_index, counts);
        true
    }

    pub(super) fn add_unreported(&mut self, destination_index: usize, counts: EventCounts) {
        let Some(project) = self.projects.get_mut(destination_index) else { return };
        let sum = &mut project.unreported;
        sum.unconfirmed = sum.unconfirmed.saturating_add(counts.unconfirmed);
        sum.displaced = sum.displaced.saturating_add(counts.displaced);
        sum.dropped = sum.dropped.saturating_add(counts.dropped);
        self.has_unreported |= counts != EventCounts::default();
    }

    /// Returns the bytes that a request's events would occupy, of each project.
    pub(super) fn costs_by_project<'e>(
        &self,
        events: impl Iterator<Item = Event<'e>>,
    ) -> Vec<usize> {
        let mut costs = vec![0_usize; self.projects.len()];
        for event in events {
            if let Some(cost) = costs.get_mut(event.destination) {
                *cost = cost.saturating_add(event_cost(event.collection, event.json));
            }
        }
        costs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_from_of_active_projects_takes_turns() {
        let mut active = ActiveProjects::default();
        assert_eq!(active.first_from(0), None);
        for index in [7, 2, 4, 2] {
            active.insert(index);
        }
        assert_eq!(active.len(), 3);
        for (from, want) in [(0, 2), (2, 2), (3, 4), (5, 7), (8, 2)] {
            assert_eq!(active.first_from(from), Some(want), "{from}");
        }
        for index in [2, 3, 4, 7] {
            active.remove(index);
        }
        assert!(active.is_empty());
    }
}
