-- What a source promised when a batch was landed.

alter table batches
add column contract jsonb;
comment on column batches.contract is
'Contract of the source when the batch was landed, with the kind of rows it is about; null without one.';
