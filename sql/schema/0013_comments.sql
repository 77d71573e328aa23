-- A comment for every table, view, column and function: any client shows them; docs/schema.md is generated from them.

comment on table alarms is
'Outbox of the monitors: one row for each rule that fired for a model version, until it no longer fires.';
comment on column alarms.alarm_id is 'Identity.';
comment on column alarms.rule is 'Name of the rule in the monitor rules.';
comment on column alarms.model_version is 'Version that served when the rule fired.';
comment on column alarms.action is 'What the alarm asks for: alert, retrain, hold_promotions or roll_back.';
comment on column alarms.explanation is 'Why the rule fired, in words.';
comment on column alarms.evidence is 'Figures behind the explanation.';
comment on column alarms.raised_at is 'When the rule fired first.';
comment on column alarms.seen_at is 'When the rule fired last.';
comment on column alarms.acted_at is 'When the action was carried out; null until then.';
comment on column alarms.outcome is 'What was done.';
comment on column alarms.closed_at is 'When the rule no longer fired; null while the alarm is open.';
comment on column alarms.notified_at is 'When the notification was delivered; null until then.';

comment on table batches is
'One landed batch: the content of a file, or a data interval of a source; or another change of the warehouse.';
comment on column batches.batch_id is 'Digest of source and content.';
comment on column batches.source is 'Name of the source.';
comment on column batches.origin is 'File or address that the batch came from.';
comment on column batches.interval_start is 'Start of the data interval, inclusive; null for files.';
comment on column batches.interval_end is 'End of the data interval, exclusive; null for files.';
comment on column batches.status is 'landed, validated, loaded, rejected, retracted, or change (no batch of a source).';
comment on column batches.implies_items is 'Whether events may name items that no catalog row describes.';
comment on column batches.implies_users is 'Whether events may name users that no profile row describes.';
comment on column batches.read_rows is 'Rows read from the source.';
comment on column batches.inserted_rows is 'Rows inserted into items, users and events.';
comment on column batches.quarantined_rows is 'Rows that broke a rule.';
comment on column batches.message is 'Why the batch was rejected or retracted.';
comment on column batches.landed_at is 'When the batch was landed.';
comment on column batches.finished_at is 'When the batch was loaded or rejected.';
comment on column batches.number is 'Identity; events.batch refers to it.';
comment on column batches.change_number is
'Position among all changes of the warehouse, in commit order; null until the batch is loaded.';
comment on column batches.duplicate_rows is 'Rows that were stored already.';
comment on column batches.conflicting_rows is 'Rows with a known event id and another content.';
comment on column batches.on_conflict is 'keep or replace: which row of a conflict stays.';
comment on column batches.live is 'Whether the source delivers in real time, so that old events are unusual.';
comment on column batches.first_event is 'Time of the earliest valid event.';
comment on column batches.last_event is 'Time of the latest valid event.';
comment on column batches.columns is 'Columns of the source rows.';
comment on column batches.new_columns is 'Columns that earlier batches of the source did not have.';
comment on column batches.warnings is 'Expectations of severity warning that were not met.';

comment on table batch_days is
'Days whose events a change added, replaced or removed; what was built from such a day before is out of date.';
comment on column batch_days.day is 'Day, UTC.';
comment on column batch_days.change_number is 'The change.';
comment on column batch_days.events is 'Number of events the change affected on the day.';

comment on table batch_profiles is
'Profile of a batch: one metric of one kind of rows; later batches of the source are compared with it.';
comment on column batch_profiles.batch_id is 'The batch.';
comment on column batch_profiles.kind is 'items, users or events.';
comment on column batch_profiles.metric is 'Name of the metric.';
comment on column batch_profiles.value is 'Value of the metric; null where it is undefined.';

comment on table landed_files is 'Files of the landing folder that were ingested, as they were when they were found.';
comment on column landed_files.path is 'Path of the file.';
comment on column landed_files.bytes is 'Size in bytes.';
comment on column landed_files.modified_ns is 'Time of the last modification, in nanoseconds since 1970.';
comment on column landed_files.batch_id is 'Batch that the file became.';
comment on column landed_files.seen_at is 'When the file was ingested.';

comment on table quarantine is
'Rows that broke a rule, with the reason and the row as it was; one row per broken rule.';
comment on column quarantine.batch_id is 'Batch of the row.';
comment on column quarantine.kind is 'items, users, events, or lines (lines that are no row).';
comment on column quarantine.row_number is 'Line of the file, or position of the row.';
comment on column quarantine.rule is 'Name of the broken rule.';
comment on column quarantine.reason is 'What is wrong, in words.';
comment on column quarantine.raw is 'The row as the source delivered it.';
comment on column quarantine.quarantined_at is 'When the row was quarantined.';
comment on column quarantine.value is 'The value that broke the rule.';
comment on column quarantine.resolved_at is 'When a replay loaded the row; null while it is open.';

comment on table events is 'User actions and impressions, one row per event id; partitioned by month of event_time.';
comment on column events.event_id is 'Id of the event, unique across files and runs.';
comment on column events.event_key is '64-bit digest of event_id, for the index.';
comment on column events.user_id is 'User; null for anonymous sessions.';
comment on column events.session_id is 'Session; null where the source knows none.';
comment on column events.item_id is 'Item; null for searches.';
comment on column events.event_type is 'search, impression, view, add_to_cart or purchase.';
comment on column events.event_time is 'When it happened.';
comment on column events.query is 'Search text, of searches.';
comment on column events.quantity is 'Number of items bought or put in the cart.';
comment on column events.price is 'Price per item, in the currency of the shop.';
comment on column events.request_id is 'Request whose list the event belongs to; null for organic events.';
comment on column events.position is 'Position of the item in the list, from 1.';
comment on column events.properties is 'Everything else the source says.';
comment on column events.source is 'Source that delivered the event.';
comment on column events.batch is 'batches.number of the batch that brought it.';
comment on column events.row_number is 'Line of the file.';
comment on column events.content is '64-bit digest of the content, to detect conflicts.';
comment on column events.ingested_at is 'When it was loaded.';

comment on table item_versions is
'Catalog history: a row for each change of an item; the latest valid_from up to a time holds at it.';
comment on column item_versions.item_id is 'Item.';
comment on column item_versions.valid_from is 'Start of validity.';
comment on column item_versions.batch is 'batches.number of the batch that brought it.';
comment on column item_versions.title is 'Title.';
comment on column item_versions.category_path is 'Categories from broad to narrow, joined by " > ".';
comment on column item_versions.brand is 'Brand.';
comment on column item_versions.price is 'Price, in the currency of the shop.';
comment on column item_versions.properties is 'Everything else the source says.';
comment on column item_versions.available_from is 'Start of availability; null means always.';
comment on column item_versions.available_until is 'End of availability; null means always.';
comment on column item_versions.implied is 'Whether only an event named the item.';
comment on column item_versions.source is 'Source that delivered it.';
comment on column item_versions.updated_at is 'When it was loaded.';

comment on table user_versions is
'Profile history: a row for each change of a user; the latest valid_from up to a time holds at it.';
comment on column user_versions.user_id is 'User.';
comment on column user_versions.valid_from is 'Start of validity.';
comment on column user_versions.batch is 'batches.number of the batch that brought it.';
comment on column user_versions.properties is 'The profile.';
comment on column user_versions.implied is 'Whether only an event named the user.';
comment on column user_versions.source is 'Source that delivered it.';
comment on column user_versions.updated_at is 'When it was loaded.';

comment on table forgotten_users is 'Users who asked to be forgotten; earlier events of theirs are not ingested again.';
comment on column forgotten_users.user_digest is 'SHA-256 of the user id.';
comment on column forgotten_users.forgotten_at is 'When.';

comment on table feature_partitions is
'Daily partitions of snapshots: the prepared events of one day, in one immutable file.';
comment on column feature_partitions.day is 'Day, UTC.';
comment on column feature_partitions.until is 'Events before this time are included.';
comment on column feature_partitions.last_change is 'Latest change that touched the day.';
comment on column feature_partitions.opened_with is 'Digest of the sessions that were open when the day began.';
comment on column feature_partitions.file is 'Name of the Parquet file.';
comment on column feature_partitions.open_after is 'Digest of the sessions that may continue on the next day.';
comment on column feature_partitions.events is 'Number of events.';
comment on column feature_partitions.sessions is 'Number of sessions that began on the day.';
comment on column feature_partitions.feedback_events is 'Number of events that endpoints collected.';
comment on column feature_partitions.built_at is 'When the partition was built.';

comment on table snapshots is 'Feature snapshots: immutable inputs of trainings.';
comment on column snapshots.snapshot_id is 'Digest of the content.';
comment on column snapshots.cutoff is 'Events before this time are included.';
comment on column snapshots.location is 'Path of the manifest.';
comment on column snapshots.manifest is 'The manifest: files, counts and estimates.';
comment on column snapshots.created_at is 'When the snapshot was registered.';
comment on column snapshots.as_of_change is 'Changes up to this number are included.';

comment on table promotions is
'Deployment record: every decision about a model version; the deployment state follows from it.';
comment on column promotions.promotion_id is 'Identity, in the order of decisions.';
comment on column promotions.model_version is 'Version of the registered model.';
comment on column promotions.run_id is 'MLflow run of the version.';
comment on column promotions.snapshot_id is 'Snapshot the version was trained on.';
comment on column promotions.bundle_digest is 'Digest of the bundle; null if it has none.';
comment on column promotions.decision is 'promoted, refused, failed, rolled_back, rollout, withdrawn or reconciled.';
comment on column promotions.reasons is 'Reasons, as a JSON list of sentences.';
comment on column promotions.decided_at is 'When.';
comment on column promotions.approved_by is 'Who approved or asked for it.';
comment on column promotions.evidence is 'All figures behind the decision.';

comment on table feedback_cursors is 'How far each endpoint''s event log was collected.';
comment on column feedback_cursors.endpoint is 'Instance id of the event log.';
comment on column feedback_cursors.segment is 'File of the event log.';
comment on column feedback_cursors.read_bytes is 'Bytes that were collected.';
comment on column feedback_cursors.updated_at is 'When.';

comment on table live_events is
'Recent events that endpoints on several machines share: one row for the user and one for the session.';
comment on column live_events.key is 'u:USER or s:SESSION.';
comment on column live_events.event_id is 'Id of the event.';
comment on column live_events.user_id is 'User; null for anonymous sessions.';
comment on column live_events.event_time is 'When it happened.';
comment on column live_events.published_at is 'When the endpoint published it.';
comment on column live_events.event is 'The event as JSON.';

comment on table bot_visitors is
'Visitors flagged as bots on a day; their events count in no metric and are not trained on.';
comment on column bot_visitors.visitor is 'u:USER, or s:SESSION of an anonymous visitor.';
comment on column bot_visitors.day is 'Day, UTC.';
comment on column bot_visitors.reason is 'Why the visitor was flagged.';
comment on column bot_visitors.change_number is 'The change that flagged the visitor.';

comment on table request_outcomes is
'Attributed outcomes: one request with logged impressions, and the actions on its list within the attribution window.';
comment on column request_outcomes.day is 'Day of the request, UTC.';
comment on column request_outcomes.request_id is 'The request.';
comment on column request_outcomes.visitor is 'u:USER, or s:SESSION of an anonymous visitor.';
comment on column request_outcomes.session is 'Session.';
comment on column request_outcomes.shown_at is 'When the list was shown.';
comment on column request_outcomes.list is 'Kind of list: recommendations, search, similar.';
comment on column request_outcomes.model_version is 'Version that made the list.';
comment on column request_outcomes.experiment is 'Experiment; empty without one.';
comment on column request_outcomes.arm is 'Arm of the experiment; empty without one.';
comment on column request_outcomes.segment is 'Segment of the visitor: returning, new or anonymous.';
comment on column request_outcomes.traffic is 'shopper, internal or bot, as the caller says.';
comment on column request_outcomes.sampled is 'Share of requests whose impressions were logged at the time.';
comment on column request_outcomes.milliseconds is 'Time the endpoint took, in ms.';
comment on column request_outcomes.impressions is 'Items shown.';
comment on column request_outcomes.clicks is 'Items acted on in any way.';
comment on column request_outcomes.carts is 'Items put in a cart or bought.';
comment on column request_outcomes.purchases is 'Items bought.';
comment on column request_outcomes.revenue is 'What was paid for them.';
comment on column request_outcomes.team_clicks is 'Interleaving: clicks per team.';

comment on table outcome_days is 'Days whose outcomes are attributed.';
comment on column outcome_days.day is 'Day, UTC.';
comment on column outcome_days.as_of_change is 'Changes up to this number are included.';

comment on table online_metrics is 'Online metrics by day; an empty text stands for all values of a column.';
comment on column online_metrics.day is 'Day, UTC.';
comment on column online_metrics.list is 'Kind of list.';
comment on column online_metrics.model_version is 'Version.';
comment on column online_metrics.experiment is 'Experiment.';
comment on column online_metrics.arm is 'Arm.';
comment on column online_metrics.segment is 'Segment of the visitors.';
comment on column online_metrics.metric is 'Name of the metric.';
comment on column online_metrics.value is 'Value.';
comment on column online_metrics.low is 'Lower end of the 95 % interval.';
comment on column online_metrics.high is 'Upper end of the 95 % interval.';
comment on column online_metrics.visitors is 'Number of visitors.';

comment on table schema_migrations is 'Schema migrations that were applied.';
comment on column schema_migrations.name is 'File of sql/schema/.';
comment on column schema_migrations.applied_at is 'When.';

comment on view items is 'Catalog as of now: the current version of each item.';
comment on view users is 'Profiles as of now: the current version of each user.';
comment on view open_quarantine is 'Rows of quarantine that are not resolved, whatever number of rules each broke.';
comment on view source_status is 'State of each source: batches, rows and the latest batch.';
comment on view recommendation_lineage is 'From an impression back to the version, run and snapshot that made it.';
comment on view snapshot_batches is 'Batches whose events a snapshot includes.';
comment on view shopper_outcomes is
'Attributed outcomes of shoppers: without internal traffic and bots. All online metrics read this view.';

comment on column items.item_id is 'Item.';
comment on column items.title is 'Title.';
comment on column items.category_path is 'Categories from broad to narrow, joined by " > ".';
comment on column items.brand is 'Brand.';
comment on column items.price is 'Price, in the currency of the shop.';
comment on column items.properties is 'Everything else the source says.';
comment on column items.available_from is 'Start of availability; null means always.';
comment on column items.available_until is 'End of availability; null means always.';
comment on column items.source is 'Source that delivered it.';
comment on column items.updated_at is 'When it was loaded.';
comment on column open_quarantine.batch_id is 'Batch of the row.';
comment on column open_quarantine.kind is 'items, users, events, or lines (lines that are no row).';
comment on column open_quarantine.row_number is 'Line of the file, or position of the row.';
comment on column recommendation_lineage.request_id is
'Request whose list the event belongs to; null for organic events.';
comment on column recommendation_lineage.position is 'Position of the item in the list, from 1.';
comment on column recommendation_lineage.item_id is 'Item; null for searches.';
comment on column recommendation_lineage.user_id is 'User; null for anonymous sessions.';
comment on column recommendation_lineage.session_id is 'Session; null where the source knows none.';
comment on column recommendation_lineage.shown_at is 'When the item was shown.';
comment on column recommendation_lineage.model_version is 'Version of the registered model.';
comment on column recommendation_lineage.run_id is 'MLflow run of the version.';
comment on column recommendation_lineage.snapshot_id is 'Snapshot the version was trained on.';
comment on column recommendation_lineage.cutoff is 'Events before this time are included.';
comment on column recommendation_lineage.as_of_change is 'Changes up to this number are included.';
comment on column recommendation_lineage.snapshot_location is 'Path of the manifest.';
comment on column shopper_outcomes.day is 'Day of the request, UTC.';
comment on column shopper_outcomes.request_id is 'The request.';
comment on column shopper_outcomes.visitor is 'u:USER, or s:SESSION of an anonymous visitor.';
comment on column shopper_outcomes.session is 'Session.';
comment on column shopper_outcomes.shown_at is 'When the list was shown.';
comment on column shopper_outcomes.list is 'Kind of list: recommendations, search, similar.';
comment on column shopper_outcomes.model_version is 'Version that made the list.';
comment on column shopper_outcomes.experiment is 'Experiment; empty without one.';
comment on column shopper_outcomes.arm is 'Arm of the experiment; empty without one.';
comment on column shopper_outcomes.segment is 'Segment of the visitor: returning, new or anonymous.';
comment on column shopper_outcomes.traffic is 'shopper, internal or bot, as the caller says.';
comment on column shopper_outcomes.sampled is 'Share of requests whose impressions were logged at the time.';
comment on column shopper_outcomes.milliseconds is 'Time the endpoint took, in ms.';
comment on column shopper_outcomes.impressions is 'Items shown.';
comment on column shopper_outcomes.clicks is 'Items acted on in any way.';
comment on column shopper_outcomes.carts is 'Items put in a cart or bought.';
comment on column shopper_outcomes.purchases is 'Items bought.';
comment on column shopper_outcomes.revenue is 'What was paid for them.';
comment on column shopper_outcomes.team_clicks is 'Interleaving: clicks per team.';
comment on column snapshot_batches.snapshot_id is 'Digest of the content.';
comment on column snapshot_batches.batch_id is 'Digest of source and content.';
comment on column snapshot_batches.source is 'Name of the source.';
comment on column snapshot_batches.origin is 'File or address that the batch came from.';
comment on column snapshot_batches.interval_start is 'Start of the data interval, inclusive; null for files.';
comment on column snapshot_batches.interval_end is 'End of the data interval, exclusive; null for files.';
comment on column snapshot_batches.inserted_rows is 'Rows inserted into items, users and events.';
comment on column snapshot_batches.quarantined_rows is 'Rows that broke a rule.';
comment on column snapshot_batches.change_number is
'Position among all changes of the warehouse, in commit order; null until the batch is loaded.';
comment on column source_status.source is 'Name of the source.';
comment on column source_status.loaded_batches is 'Number of loaded batches.';
comment on column source_status.rejected_batches is 'Number of rejected batches.';
comment on column source_status.last_batch is 'The latest batch.';
comment on column source_status.last_status is 'Status of the latest batch.';
comment on column source_status.last_origin is 'Origin of the latest batch.';
comment on column source_status.last_landed_at is 'When the latest batch was landed.';
comment on column source_status.last_event is 'Time of the latest valid event.';
comment on column source_status.inserted_rows is 'Rows inserted so far.';
comment on column source_status.duplicate_rows is 'Duplicates so far.';
comment on column source_status.quarantined_rows is 'Rows in quarantine that are not resolved.';
comment on column users.user_id is 'User.';
comment on column users.properties is 'The profile.';
comment on column users.source is 'Source that delivered it.';
comment on column users.updated_at is 'When it was loaded.';

comment on function event_content(text, text, text, text, timestamptz, text, numeric, numeric, text, integer, jsonb) is
'64-bit digest of an event without its id; two contents of one id are a conflict.';
comment on function create_event_month(date) is 'Creates the partition of events for a month, if it is missing.';
comment on function user_digest(text) is 'SHA-256 of a user id, as forgotten_users stores it.';
comment on function visitor_of(text, text) is 'Key of a visitor: u:USER, or s:SESSION of an anonymous visitor.';
comment on function shopper_events(timestamptz, timestamptz, integer) is
'Events of shoppers in [begins, ends), as of a change (null: all): without internal traffic and bots.';
comment on function shopper_impressions(timestamptz, integer, integer) is
'Impressions of shoppers in the days before a cut-off, as of a change, and whether each was acted on.';
