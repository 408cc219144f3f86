//! Soft-state reconstruction at scale (DESIGN 5): what a change of membership costs each node, and how long a million
//! users take.

use cluster::reconstruction::{MailMaps, Question};
use cluster::{Addresses, Bucket, Epoch, Incarnation, Member, MemberState, NodeId, UserId, UserMap, View};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn view(epoch: u64, nodes: impl Iterator<Item = u64>) -> View {
    let member = |number: u64| Member {
        id: NodeId::of_name(&format!("node-{number}")),
        name: format!("node-{number}"),
        addresses: Addresses::default(),
        zone: None,
        state: MemberState::Active,
        incarnation: Incarnation(1),
    };
    View::new(Epoch(epoch), nodes.map(member).collect())
}

fn members(view: &View) -> Vec<(NodeId, Incarnation)> {
    view.serving().map(|member| (member.id, member.incarnation)).collect()
}

/// What one node holds: users by bucket.
type Fragments = BTreeMap<Bucket, Vec<UserId>>;

fn answer(fragments: &Fragments, question: &Question) -> Vec<UserId> {
    question.buckets.iter().flat_map(|bucket| fragments.get(bucket).into_iter().flatten().copied()).collect()
}

/// A cluster with two copies of everybody's mail.
struct Cluster {
    fragments: BTreeMap<NodeId, Fragments>,
    users: Vec<(UserId, [NodeId; 2])>,
}

impl Cluster {
    fn new(view: &View, users_per_node: u64) -> Self {
        let nodes: Vec<NodeId> = view.active().map(|member| member.id).collect();
        let mut cluster = Self { fragments: BTreeMap::new(), users: Vec::new() };
        for number in 0..users_per_node * nodes.len() as u64 {
            let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let first = random as usize % nodes.len();
            let second = (first + 1 + (random >> 20) as usize % (nodes.len() - 1)) % nodes.len();
            let (user, holders) = (UserId(number.into()), [nodes[first], nodes[second]]);
            for holder in holders {
                let fragments = cluster.fragments.entry(holder).or_default();
                fragments.entry(Bucket::of_user(user)).or_default().push(user);
            }
            cluster.users.push((user, holders));
        }
        cluster
    }
}

struct Cost {
    /// Calls made and answered, and users listed and taken in, of the mean node.
    calls: f64,
    users: f64,
    busiest_calls: usize,
}

/// A node dies; every manager asks for what it gained. Checks that all maps are right in the end.
fn a_node_dies(nodes: u64, users_per_node: u64) -> Cost {
    let before = view(1, 0..nodes);
    let after = view(2, 1..nodes);
    let cluster = Cluster::new(&before, users_per_node);
    let (old, new) = (UserMap::new(&before), UserMap::new(&after));
    let members = members(&after);
    let mut work: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
    let mut rebuilt: BTreeMap<NodeId, MailMaps> = BTreeMap::new();
    for &(manager, _) in &members {
        let gained: Vec<Bucket> =
            new.buckets_of(manager).filter(|&bucket| old.manager(bucket) != Some(manager)).collect();
        let mut maps = MailMaps::default();
        for question in maps.questions(&gained, &members) {
            let users = answer(&cluster.fragments[&question.member], &question);
            for side in [manager, question.member] {
                let done = work.entry(side).or_default();
                *done = (done.0 + 1, done.1 + users.len());
            }
            maps.answered(&question, users);
        }
        assert!(maps.questions(&gained, &members).is_empty());
        rebuilt.insert(manager, maps);
    }
    let lost = NodeId::of_name("node-0");
    for (user, holders) in &cluster.users {
        if old.manager_of(*user) == Some(lost) {
            let map = new.manager_of(*user).map(|manager| rebuilt[&manager].mail_map(*user));
            let living = holders.iter().filter(|holder| **holder != lost);
            assert!(map.is_some_and(|map| living.clone().all(|holder| map.contains(*holder))));
        }
    }
    let count = members.len() as f64;
    Cost {
        calls: work.values().map(|done| done.0).sum::<usize>() as f64 / count,
        users: work.values().map(|done| done.1).sum::<usize>() as f64 / count,
        busiest_calls: work.values().map(|done| done.0).max().unwrap_or_default(),
    }
}

#[test]
fn a_death_costs_each_node_the_same_from_3_to_300_nodes_at_constant_users_a_node() {
    const USERS: u64 = 300;
    let costs: Vec<(u64, Cost)> =
        [3, 10, 30, 100, 300].map(|nodes| (nodes, a_node_dies(nodes, USERS))).into();
    for (nodes, cost) in &costs {
        println!(
            "{nodes} nodes: {:.1} calls and {:.0} users a node, {} calls of the busiest",
            cost.calls, cost.users, cost.busiest_calls
        );
        // The dead node's users are listed by the nodes that hold their mail: two fragments each, seen at both ends,
        // shared by all. Calls: a gained bucket is asked for everywhere, and 4096 of them were shared by all before.
        assert!(cost.users < 4.5 * USERS as f64, "{nodes} nodes: {} users", cost.users);
        assert!(cost.calls < 100.0, "{nodes} nodes: {} calls", cost.calls);
        assert!(cost.busiest_calls < 700, "{nodes} nodes: {} calls", cost.busiest_calls);
    }
    let users = |at: usize| costs[at].1.users;
    assert!(users(4) < users(1), "it does not grow");
}

/// A million on an optimised build (`make scale`), fewer on one that is not.
#[test]
fn all_users_of_one_node_are_known_again_within_ten_seconds() {
    let count: u128 = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };
    let all = view(1, 0..3);
    let members = members(&all);
    let holder = members[0];
    let mut fragments = Fragments::new();
    for number in 0..count {
        fragments.entry(Bucket::of_user(UserId(number))).or_default().push(UserId(number));
    }
    let wanted: Vec<Bucket> = Bucket::all().collect();
    let begun = Instant::now();
    let mut maps = MailMaps::default();
    for question in maps.questions(&wanted, &[holder]) {
        // Over the wire and back, as the node sends it.
        let coded = postcard::to_stdvec(&answer(&fragments, &question)).unwrap();
        let users: Vec<UserId> = postcard::from_bytes(&coded).unwrap();
        maps.answered(&question, users);
    }
    let took = begun.elapsed();
    println!("{count} users in {took:?}");
    assert_eq!(maps.users() as u128, count);
    assert!(maps.mail_map(UserId(count - 1)).contains(holder.0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
