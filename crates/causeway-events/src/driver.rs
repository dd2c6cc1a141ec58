//! Follows the picture: starts and stops the task of each topic and each subscription.
//!
//! In:    `watch<Arc<Snapshot>>`.     Out: running tasks, and the [`Directory`] of their doors.
//! Owner: the task `events.driver`; it alone starts and stops.
//! Invariant: a directory of revision R is published after everything that R declares is started, a new subscription's first
//!            record being durable: what is published to the topic from then on reaches it. State is dropped only when a
//!            document is seen to go, never because one is missing at the start.
//! Not here: events. One task per topic and one per subscription: a topic's publishers wait for its commits alone, a slow
//! filter or receiver holds up its own subscription alone, and each machine has one owner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{OnFailure, Scope};
use causeway_model::{Kind, Name, Revision, Snapshot, Spec, Subscription, Timestamp, Topic};
use tokio::sync::{mpsc, oneshot, watch};

use crate::directory::{CALLS_MAX, Directory, GroupDoor, PUBLISHES_MAX, Publish, TopicDoor, TopicKey};
use crate::error::Error;
use crate::group::{self, Document, Ended, Group, Orders};
use crate::log::TopicLog;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::recover::Streams;
use crate::topic;

/// When something could not be started or dropped, it is tried again this often.
const RETRY_EVERY: Duration = Duration::from_secs(5);

type GroupKey = (TopicKey, Name);

struct Driver {
    options: Options,
    metrics: Metrics,
    scope: Scope,
    running: BTreeMap<TopicKey, RunningTopic>,
    /// Subscriptions whose documents were seen.
    declared: BTreeSet<GroupKey>,
    /// Deleted ones whose state is still to be dropped.
    to_drop: BTreeSet<GroupKey>,
    is_behind: bool,
    followed: Option<Revision>,
}

struct RunningTopic {
    log: TopicLog,
    publish: mpsc::Sender<Publish>,
    scope: Scope,
    ended: oneshot::Receiver<()>,
    groups: BTreeMap<Name, RunningGroup>,
}

struct RunningGroup {
    document: Document,
    orders: watch::Sender<Orders>,
    door: GroupDoor,
    ended: oneshot::Receiver<()>,
}

/// Starts the driver; the directory follows the snapshot from now on.
pub(crate) fn start(options: Options, metrics: Metrics, scope: &Scope) -> watch::Receiver<Arc<Directory>> {
    let (publish, directory) = watch::channel(Arc::new(Directory::default()));
    let snapshot = options.snapshot.clone();
    let driver = Driver {
        options,
        metrics,
        scope: scope.clone(),
        running: BTreeMap::new(),
        declared: BTreeSet::new(),
        to_drop: BTreeSet::new(),
        is_behind: false,
        followed: None,
    };
    scope.spawn("driver", OnFailure::StopNode, async move {
        driver.run(snapshot, publish).await;
        Ok(())
    });
    directory
}

impl Driver {
    async fn run(
        mut self,
        mut snapshot: watch::Receiver<Arc<Snapshot>>,
        directory: watch::Sender<Arc<Directory>>,
    ) {
        let stopped = self.scope.cancelled();
        tokio::pin!(stopped);
        let mut is_open = true;
        loop {
            let picture = snapshot.borrow_and_update().clone();
            self.follow(&picture, &directory).await;
            tokio::select! {
                () = &mut stopped => return,
                changed = snapshot.changed(), if is_open => is_open = changed.is_ok(),
                () = tokio::time::sleep(RETRY_EVERY), if self.is_behind => {}
            }
        }
    }

    async fn follow(&mut self, picture: &Snapshot, directory: &watch::Sender<Arc<Directory>>) {
        let revision = picture.revision();
        if !self.is_behind && self.followed.is_some_and(|known| !concerns_us(picture, known)) {
            self.followed = Some(revision);
            let topics = directory.borrow().topics.clone();
            directory.send_replace(Arc::new(Directory { revision, topics }));
            return;
        }
        self.is_behind = false;
        let topics = topics_of(picture);
        let groups = groups_of(picture);
        self.stop_what_is_gone(&topics, &groups).await;
        self.drop_what_was_deleted(&groups).await;
        for (key, spec) in topics {
            self.run_topic(key, spec);
        }
        for ((topic, group), document) in groups {
            self.declared.insert((topic.clone(), group.clone()));
            self.run_group(&topic, &group, document).await;
        }
        self.followed = Some(revision);
        directory.send_replace(Arc::new(Directory { revision, topics: Arc::new(self.doors()) }));
    }

    fn doors(&self) -> BTreeMap<TopicKey, TopicDoor> {
        let groups = |topic: &RunningTopic| {
            topic.groups.iter().map(|(name, group)| (name.clone(), group.door.clone())).collect()
        };
        let door = |topic: &RunningTopic| TopicDoor {
            log: topic.log.clone(),
            publish: topic.publish.clone(),
            groups: groups(topic),
        };
        self.running.iter().map(|(key, topic)| (key.clone(), door(topic))).collect()
    }

    // === stop ===

    async fn stop_what_is_gone(
        &mut self,
        topics: &BTreeMap<TopicKey, Arc<Topic>>,
        groups: &BTreeMap<GroupKey, Document>,
    ) {
        // A topic whose document was changed is started anew with all that hangs on it: its retention and window differ.
        let is_as_declared = |key: &TopicKey, topic: &RunningTopic| {
            topics.get(key).is_some_and(|spec| **spec == *topic.log.spec)
        };
        let gone: Vec<TopicKey> = self
            .running
            .iter()
            .filter(|(key, topic)| !is_as_declared(key, topic))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(topic) = self.running.remove(&key) {
                stop_topic(topic).await;
            }
        }
        for (key, topic) in &mut self.running {
            let gone: Vec<Name> = topic
                .groups
                .keys()
                .filter(|group| !groups.contains_key(&(key.clone(), (*group).clone())))
                .cloned()
                .collect();
            for group in gone {
                if let Some(group) = topic.groups.remove(&group) {
                    stop_group(group).await;
                }
            }
        }
    }

    async fn drop_what_was_deleted(&mut self, groups: &BTreeMap<GroupKey, Document>) {
        let deleted: Vec<GroupKey> =
            self.declared.iter().filter(|key| !groups.contains_key(*key)).cloned().collect();
        for key in deleted {
            self.declared.remove(&key);
            self.to_drop.insert(key);
        }
        for key in self.to_drop.clone() {
            let streams = self.streams(&key.0, &key.1);
            match streams.drop_state().await {
                Ok(()) => drop(self.to_drop.remove(&key)),
                Err(error) => self.trouble(&key, "cannot drop the state of a deleted subscription", &error),
            }
        }
    }

    // === start ===

    fn run_topic(&mut self, key: TopicKey, spec: Arc<Topic>) {
        if self.running.contains_key(&key) {
            return;
        }
        let log = TopicLog::new(self.options.store.clone(), key.0.clone(), key.1.clone(), spec);
        let (publish, queue) = mpsc::channel(PUBLISHES_MAX);
        let (ended_sender, ended) = oneshot::channel();
        let scope = self.scope.child(&format!("topic.{}.{}", key.0, key.1));
        let task =
            topic::run(log.clone(), queue, self.options.clock.clone(), self.metrics.clone(), scope.clone());
        self.scope.spawn(&format!("topic.{}.{}", key.0, key.1), OnFailure::StopNode, async move {
            let _ended = Ended(Some(ended_sender));
            task.await;
            Ok(())
        });
        self.running.insert(key, RunningTopic { log, publish, scope, ended, groups: BTreeMap::new() });
    }

    async fn run_group(&mut self, topic: &TopicKey, group: &Name, document: Document) {
        let key = (topic.clone(), group.clone());
        let Some(running) = self.running.get_mut(topic) else { return };
        if let Some(known) = running.groups.get_mut(group) {
            if known.document.revision != document.revision || known.document.spec != document.spec {
                known.door.spec = document.spec.clone();
                known.document = document.clone();
                known.orders.send_replace(Orders::Run(document));
            }
            return;
        }
        if self.to_drop.contains(&key) {
            // Its former life is not over yet.
            return;
        }
        let log = running.log.clone();
        match self.open_group(&key, &log, &document).await {
            Ok(group_task) => self.spawn_group(key, document, group_task),
            Err(error) => self.trouble(&key, "cannot start a subscription", &error),
        }
    }

    async fn open_group(
        &mut self,
        key: &GroupKey,
        log: &TopicLog,
        document: &Document,
    ) -> Result<OpenGroup, Error> {
        let streams = self.streams(&key.0, &key.1);
        let mut machine = streams.recover(document.rules(), self.options.seed.fork())?;
        // A change since it stopped for a 410 lets it go on; the same document does not.
        machine.configure(document.rules(), document.revision);
        if !machine.is_started {
            let (now, cursor) = (Timestamp::from(self.options.clock.now()), log.next());
            let records = {
                machine.start(now, cursor);
                machine.drain()
            };
            streams.persist(&records).await?;
        }
        let (status, status_seen) = watch::channel(group::first_status(&machine, log.next()));
        Ok(OpenGroup {
            group: Group {
                log: log.clone(),
                streams,
                machine,
                document: document.clone(),
                outbound: self.options.outbound.clone(),
                clock: self.options.clock.clone(),
                metrics: self.metrics.clone(),
                status,
            },
            status: status_seen,
        })
    }

    fn spawn_group(&mut self, (topic, name): GroupKey, document: Document, open: OpenGroup) {
        let Some(running) = self.running.get_mut(&topic) else { return };
        let (orders, orders_seen) = watch::channel(Orders::Run(document.clone()));
        let (calls, calls_seen) = mpsc::channel(CALLS_MAX);
        let (ended_sender, ended) = oneshot::channel();
        let door = GroupDoor { spec: document.spec.clone(), calls, status: open.status };
        let task = group::run(open.group, orders_seen, calls_seen, self.scope.clone());
        let task_name = format!("subscription.{}.{}.{name}", topic.0, topic.1);
        self.scope.spawn(&task_name, OnFailure::StopNode, async move {
            let _ended = Ended(Some(ended_sender));
            task.await;
            Ok(())
        });
        running.groups.insert(name, RunningGroup { document, orders, door, ended });
    }

    fn streams(&self, topic: &TopicKey, group: &Name) -> Streams {
        Streams::new(self.options.store.clone(), &topic.0, &topic.1, group)
    }

    fn trouble(&mut self, ((namespace, topic), group): &GroupKey, doing: &str, error: &Error) {
        self.is_behind = true;
        tracing::error!(%namespace, %topic, %group, %error, doing, "a subscription waits for storage");
    }
}

struct OpenGroup {
    group: Group,
    status: watch::Receiver<crate::view::Status>,
}

async fn stop_topic(topic: RunningTopic) {
    for (_, group) in topic.groups {
        stop_group(group).await;
    }
    drop(topic.publish);
    topic.scope.cancel();
    let _ = topic.ended.await;
}

async fn stop_group(group: RunningGroup) {
    group.orders.send_replace(Orders::End);
    let _ = group.ended.await;
}

fn concerns_us(picture: &Snapshot, known: Revision) -> bool {
    use causeway_model::ResourceKey::Object;
    match picture.changes_since(known) {
        Some(mut changes) => changes.any(
            |(_, key)| matches!(key, Object(key) if matches!(key.kind, Kind::Topic | Kind::Subscription)),
        ),
        None => true,
    }
}

fn topics_of(picture: &Snapshot) -> BTreeMap<TopicKey, Arc<Topic>> {
    let topic = |object: &Arc<causeway_model::Object>| match &object.spec {
        Spec::Topic(topic) => {
            Some(((object.key.namespace.clone(), object.key.name.clone()), Arc::new(topic.clone())))
        }
        _ => None,
    };
    picture.objects_of(Kind::Topic).filter_map(topic).collect()
}

fn groups_of(picture: &Snapshot) -> BTreeMap<GroupKey, Document> {
    let group = |object: &Arc<causeway_model::Object>| match &object.spec {
        Spec::Subscription(spec) => {
            let Subscription { topic, group, .. } = spec;
            let key = ((object.key.namespace.clone(), topic.clone()), group.clone());
            Some((key, Document { spec: Arc::new(spec.clone()), revision: object.revision }))
        }
        _ => None,
    };
    picture.objects_of(Kind::Subscription).filter_map(group).collect()
}
