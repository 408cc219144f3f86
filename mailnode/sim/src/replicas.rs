//! Whether the nodes agree, looked at from outside: views, and every entry on every disk that should hold it.

use crate::world::World;
use cluster::{Entry, EntryId, MemberState, PartOrder, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// What is not as it must be in the end; None: everything is.
pub fn disagreement(world: &World, users: &[UserId], copies: usize) -> Option<String> {
    let entries = || entries(world, users, copies);
    views(world).or_else(entries).or_else(|| parts(world, copies)).or_else(|| logs(world))
}

fn views(world: &World) -> Option<String> {
    let mut first = None;
    for host in &world.hosts {
        let Some(node) = host.node() else { return Some(format!("{} does not run", host.name)) };
        let state = node.topology.now();
        let view = &state.view;
        if let Some(member) = view.members.iter().find(|member| member.state != MemberState::Active) {
            return Some(format!("{} sees {} {:?}", host.name, member.name, member.state));
        }
        if view.members.len() != world.hosts.len() {
            return Some(format!("{} sees {} members", host.name, view.members.len()));
        }
        if let Some(avoided) = world.hosts.iter().find(|other| node.topology.is_avoided(other.id)) {
            return Some(format!("{} avoids {}", host.name, avoided.name));
        }
        if view != first.get_or_insert_with(|| view.clone()) {
            return Some(format!("{} has another view", host.name));
        }
    }
    None
}

/// All versions of a user's entries, by host.
fn versions(world: &World, user: UserId) -> Result<BTreeMap<EntryId, BTreeMap<usize, Entry>>, String> {
    let mut versions: BTreeMap<EntryId, BTreeMap<usize, Entry>> = BTreeMap::new();
    for host in &world.hosts {
        let Some(node) = host.node() else { continue };
        let entries = node.store.entries(user, None, usize::MAX).map_err(|error| error.to_string())?;
        for entry in entries {
            versions.entry(entry.id).or_default().insert(host.index, entry);
        }
    }
    Ok(versions)
}

fn entries(world: &World, users: &[UserId], copies: usize) -> Option<String> {
    for &user in users {
        let known = match versions(world, user) {
            Ok(known) => known,
            Err(error) => return Some(error),
        };
        for (id, versions) in known {
            let mut joined: Option<Entry> = None;
            for version in versions.values() {
                match &mut joined {
                    Some(joined) => {
                        joined.merge(version);
                    }
                    None => joined = Some(version.clone()),
                }
            }
            let Some(joined) = joined else { continue };
            let replicas: BTreeSet<_> = joined.replicas.value.iter().copied().collect();
            for host in &world.hosts {
                let Some(node) = host.node() else { continue };
                let version = versions.get(&host.index);
                let wrong = |what: &str| Some(format!("{}: {id} of {user} {what}", host.name));
                match (joined.is_live(), version) {
                    (false, Some(version)) if version.is_live() => {
                        return wrong("lives here, and was expunged");
                    }
                    (true, Some(_)) if !replicas.contains(&host.id) => return wrong("should not be here"),
                    (true, None) if replicas.contains(&host.id) => return wrong("is not here"),
                    (true, Some(version)) if version.digest() != joined.digest() => {
                        return wrong("is behind here");
                    }
                    (true, Some(_)) if !node.store.has_blob(joined.blob.id).unwrap_or(false) => {
                        return wrong("has no body here");
                    }
                    _ => {}
                }
            }
            if joined.is_live() && replicas.len() < copies {
                return Some(format!("{id} of {user} has {} replicas", replicas.len()));
            }
        }
    }
    None
}

/// Every MIME part that a message anywhere refers to is at its owners.
fn parts(world: &World, copies: usize) -> Option<String> {
    for host in &world.hosts {
        let node = host.node()?;
        let wanted = match node.store.wanted_parts(None, usize::MAX) {
            Ok(page) => page.parts,
            Err(error) => return Some(error.to_string()),
        };
        let view = &node.topology.now().view;
        for part in wanted {
            let owners = PartOrder::new(view, copies, part).owners;
            for owner in world.hosts.iter().filter(|owner| owners.contains(&owner.id)) {
                if !owner.node()?.store.has_blob(part).unwrap_or(false) {
                    return Some(format!(
                        "{}: part {part:?}, wanted by {}, is not here",
                        owner.name, host.name
                    ));
                }
            }
        }
    }
    None
}

/// Nothing waits to be told to anybody.
fn logs(world: &World) -> Option<String> {
    for host in &world.hosts {
        let node = host.node()?;
        if let Some(&peer) = node.store.pending_peers().first() {
            return Some(format!(
                "{} keeps {} updates for {peer}",
                host.name,
                node.store.pending_count(peer)
            ));
        }
        if node.users.buckets_left() > 0 {
            return Some(format!(
                "{} has {} buckets of the user database to bring level",
                host.name,
                node.users.buckets_left()
            ));
        }
    }
    None
}
