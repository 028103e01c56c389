-- Up Migration

-- Who erases: a participant of an erasure works as this role for one tenant, and nobody else may delete or clear what it
-- may. The contract is docs/erasure.md.
do $$
begin
  if not exists (select from pg_roles where rolname = 'tabib_erasure') then
    begin
      create role tabib_erasure nologin;
    exception
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        raise exception 'role tabib_erasure does not exist and % may not create it', current_user
          using hint = 'as an administrator: create role tabib_erasure nologin';
    end;
  end if;
end
$$;
grant usage on schema tabib, virtual_care, billing, communication to tabib_erasure;

-- What the platform keeps of a patient beyond ids.
alter table virtual_care.patient
  add column email text,
  add column national_id text,
  add column address text,
  add column born_on date;
create index patient_tenant on virtual_care.patient (tenant_id, id);
create table virtual_care.encounter_note (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  patient_id uuid not null,
  session_id uuid,
  body text not null,
  -- Structured findings, as the clinician's form gave them.
  data jsonb not null default '{}',
  written_at timestamptz not null default clock_timestamp()
);
create index encounter_note_patient on virtual_care.encounter_note (tenant_id, patient_id);
create index appointment_patient on virtual_care.appointment (tenant_id, patient_id);
create index session_patient on virtual_care.session (tenant_id, patient_id);
create index participant_person on virtual_care.participant (tenant_id, person_id);

-- To whom bills are made out. The law keeps the ledger; it does not keep these.
create table billing.payer (
  tenant_id uuid not null references tabib.tenant (id),
  patient_id uuid not null,
  name text not null,
  phone text,
  email text,
  address text,
  primary key (tenant_id, patient_id)
);

create index refund_patient on billing.refund (tenant_id, patient_id);

alter table communication.thread add column patient_id uuid;
create index thread_patient on communication.thread (tenant_id, patient_id);
create table communication.thread_message (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null,
  thread_id uuid not null,
  sender_id uuid not null,
  body text not null,
  sent_at timestamptz not null default clock_timestamp(),
  foreign key (tenant_id, thread_id) references communication.thread (tenant_id, id)
);
create index thread_message_thread on communication.thread_message (tenant_id, thread_id);
create index thread_message_sender on communication.thread_message (tenant_id, sender_id);
alter table communication.message
  add column recipient text,
  add column variables jsonb not null default '{}';
create index message_patient on communication.message (tenant_id, patient_id);
create index virtual_session_patient on communication.virtual_session (tenant_id, patient_id);
-- Every attempt to hand a message to a provider, as it was sent and answered.
create table communication.dispatch_log (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  -- Of communication.message; an attempt outside it (a test, a fallback) has none, and may know no patient.
  message_id uuid,
  patient_id uuid,
  channel text not null,
  provider text not null,
  recipient text,
  request jsonb not null default '{}',
  response text,
  attempted_at timestamptz not null default clock_timestamp()
);
create index dispatch_log_patient on communication.dispatch_log (tenant_id, patient_id);
create index dispatch_log_message on communication.dispatch_log (tenant_id, message_id);
-- Where something was sent, however it is written: the last nine digits of a number, in ASCII; an address in lower case.
create function communication.recipient_key(recipient text) returns text
language sql immutable parallel safe
as $$
  select case when recipient ~ '@' then lower(btrim(recipient))
    else right(regexp_replace(translate(recipient, '۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩', '01234567890123456789'), '[^0-9]', '', 'g'), 9) end
$$;
create index dispatch_log_recipient on communication.dispatch_log (tenant_id, communication.recipient_key(recipient))
  where patient_id is null;
create table communication.attachment (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null,
  thread_id uuid not null,
  patient_id uuid not null,
  file_name text not null,
  content_type text not null,
  -- Of the object; starts with the tenant's id.
  object_key text not null,
  uploaded_at timestamptz not null default clock_timestamp(),
  foreign key (tenant_id, thread_id) references communication.thread (tenant_id, id),
  unique (tenant_id, object_key)
);
create index attachment_patient on communication.attachment (tenant_id, patient_id);

do $$
declare
  name text;
begin
  foreach name in array array['virtual_care.encounter_note', 'billing.payer',
    'communication.thread_message', 'communication.dispatch_log', 'communication.attachment'] loop
    execute format('alter table %s enable row level security', name);
    execute format('alter table %s force row level security', name);
    execute format('create policy tenant on %s to tabib_app
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('grant select, insert, update on %s to tabib_app', name);
  end loop;
  foreach name in array array['virtual_care.patient', 'virtual_care.encounter_note', 'virtual_care.appointment',
    'virtual_care.session', 'virtual_care.participant', 'billing.account', 'billing.charge', 'billing.refund',
    'billing.payer', 'billing.statement', 'billing.statement_run', 'communication.contact', 'communication.thread', 'communication.thread_participant', 'communication.thread_message',
    'communication.participant_refusal', 'communication.message', 'communication.virtual_session',
    'communication.dispatch_log', 'communication.attachment'] loop
    execute format('create policy erasure on %s to tabib_erasure
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('grant select on %s to tabib_erasure', name);
  end loop;
end
$$;
grant delete on virtual_care.patient, virtual_care.encounter_note, billing.payer, communication.contact,
  communication.thread_participant, communication.thread_message, communication.participant_refusal,
  communication.attachment to tabib_erasure;
grant update (patient_id) on virtual_care.appointment, virtual_care.session, communication.thread,
  communication.virtual_session to tabib_erasure;
grant update (person_id) on virtual_care.participant to tabib_erasure;
grant update (patient_id) on billing.charge, billing.refund to tabib_erasure;
-- `receivable:<patient id>` becomes `receivable:<pseudonym>`; entries and transactions hold no patient's id.
grant update (code) on billing.account to tabib_erasure;
-- A PDF names whom it is for; that there was one stays.
grant update (state, reason, detail, sha256, pages, bytes, object_key, settled_at) on billing.statement to tabib_erasure;
grant update (patient_id, recipient, variables) on communication.message to tabib_erasure;
grant update (patient_id, recipient, request, response) on communication.dispatch_log to tabib_erasure;

-- The data key of one subject, wrapped; what is sealed with it can be read as long as it lasts. A destroyed one stays as a
-- tombstone, so that none is made for the subject again.
create table tabib.subject_key (
  tenant_id uuid not null references tabib.tenant (id),
  -- Keyed: HMAC-SHA-256 of tenant and subject (src/domain/erasure/secret.ts).
  subject_hash bytea not null,
  wrapped bytea,
  created_at timestamptz not null default clock_timestamp(),
  destroyed_at timestamptz,
  primary key (tenant_id, subject_hash),
  check ((wrapped is null) = (destroyed_at is not null))
);

-- An order to erase one subject, and how far it has come. Nothing in it names the subject except `sealed`.
create table tabib.erasure_request (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  subject_hash bytea not null check (length(subject_hash) = 32),
  requested_at timestamptz not null default clock_timestamp(),
  -- GDPR article 12(3): one month, or what the tenant's law says (`privacy.erasureDays`).
  deadline_at timestamptz not null,
  -- The registered operator who signed the order; of a request that follows another one, whoever signed that.
  authority text not null,
  order_jti uuid unique,
  -- SHA-256 of the order's JWS.
  order_digest bytea not null,
  -- The request whose subject came back.
  follows uuid references tabib.erasure_request (id),
  state text not null default 'open' check (state in ('open', 'watching', 'complete')),
  -- The subject's identifiers while they are needed: AES-256-GCM under a key of tabib's erasure secret.
  sealed bytea,
  -- When everything is read once more: 24 h after the last acknowledgement.
  watch_until timestamptz,
  completed_at timestamptz,
  check ((state = 'open') = (watch_until is null)),
  check ((state = 'complete') = (completed_at is not null)),
  check ((state = 'complete') = (sealed is null)),
  check ((order_jti is null) = (follows is not null))
);
create unique index erasure_request_once on tabib.erasure_request (tenant_id, subject_hash) where state <> 'complete';
create index erasure_request_state on tabib.erasure_request (state, requested_at);

-- What one participant still has to do for a request.
create table tabib.erasure_step (
  request_id uuid not null references tabib.erasure_request (id),
  participant text not null,
  tenant_id uuid not null references tabib.tenant (id),
  -- Steps of a stage are sent once every step before it is done.
  stage smallint not null,
  state text not null default 'waiting' check (state in ('waiting', 'sent', 'held', 'done')),
  -- Rises when a later reading finds something again.
  round int not null default 1,
  -- Sent in this round.
  attempts int not null default 0,
  next_attempt_at timestamptz not null default clock_timestamp(),
  sent_at timestamptz,
  -- Code of what the participant last failed with.
  last_error text,
  exhausted_at timestamptz,
  -- What a store without transactions held before it was touched in this round: rows by place.
  planned jsonb,
  -- Read again after the acknowledgement, and after the 24 h: when, and how many rows were there.
  reread_at timestamptz,
  reread_found bigint,
  second_reread_at timestamptz,
  second_reread_found bigint,
  primary key (request_id, participant)
);
create index erasure_step_due on tabib.erasure_step (next_attempt_at) where state in ('waiting', 'sent', 'held');

-- A participant's acknowledgement, committed with what it did.
create table tabib.erasure_ack (
  request_id uuid not null,
  participant text not null,
  round int not null,
  tenant_id uuid not null references tabib.tenant (id),
  rows_affected bigint not null,
  -- Where that stands in its store: `pg:<lsn>`, `redis:<offset>`.
  position text not null,
  -- Rows by table.
  detail jsonb not null default '{}',
  instance text not null,
  acked_at timestamptz not null default clock_timestamp(),
  primary key (request_id, participant, round),
  foreign key (request_id, participant) references tabib.erasure_step (request_id, participant)
);

-- Whom to erase again wherever they come back: after a restore, by a late event. For ever.
create table tabib.erasure_subject (
  tenant_id uuid not null references tabib.tenant (id),
  subject_hash bytea not null,
  request_id uuid not null references tabib.erasure_request (id),
  recorded_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, subject_hash)
);
-- Their identifiers, keyed in the same way.
create table tabib.erasure_fingerprint (
  tenant_id uuid not null,
  subject_hash bytea not null,
  kind text not null,
  fingerprint bytea not null,
  primary key (tenant_id, subject_hash, kind, fingerprint),
  foreign key (tenant_id, subject_hash) references tabib.erasure_subject (tenant_id, subject_hash)
);
create index erasure_fingerprint_value on tabib.erasure_fingerprint (tenant_id, fingerprint);

-- A legal hold: the participants named, or all, keep what they have of the subject until it is released.
create table tabib.erasure_hold (
  id uuid primary key default tabib.uuid_v7(),
  tenant_id uuid not null references tabib.tenant (id),
  subject_hash bytea not null check (length(subject_hash) = 32),
  participants text[],
  -- The case or law that wants it; never about the patient.
  authority text not null,
  placed_by text not null,
  placed_at timestamptz not null default clock_timestamp(),
  released_by text,
  released_at timestamptz,
  check ((released_at is null) = (released_by is null))
);
create index erasure_hold_subject on tabib.erasure_hold (tenant_id, subject_hash) where released_at is null;

-- An event that could not be handled may say anything of anybody; of an erased subject it is never handled.
create policy erasure on tabib.quarantine to tabib_erasure
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')))
  with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')));
grant select (id, tenant_id, aggregate_id, payload), update (state, aggregate_id, detail, headers, payload, redacted,
  resolved_at, resolved_by) on tabib.quarantine to tabib_erasure;

do $$
declare
  name text;
begin
  foreach name in array array['subject_key', 'erasure_request', 'erasure_step', 'erasure_ack', 'erasure_subject',
    'erasure_fingerprint', 'erasure_hold'] loop
    execute format('alter table tabib.%I enable row level security', name);
    execute format('alter table tabib.%I force row level security', name);
    execute format('create policy erasure on tabib.%I to tabib_erasure
      using (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))
      with check (tenant_id = (select nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    execute format('create policy relay on tabib.%I to tabib_relay using (true) with check (true)', name);
    execute format('create policy auditor on tabib.%I for select to tabib_auditor using (true)', name);
    execute format('grant select on tabib.%I to tabib_erasure, tabib_relay', name);
  end loop;
end
$$;
-- The auditor sees how erasures stand, neither identifiers nor keys.
grant select on tabib.erasure_step, tabib.erasure_ack, tabib.erasure_subject, tabib.erasure_fingerprint,
  tabib.erasure_hold to tabib_auditor;
grant select (id, tenant_id, subject_hash, requested_at, deadline_at, authority, order_jti, order_digest, follows, state,
  watch_until, completed_at) on tabib.erasure_request to tabib_auditor;
grant select (tenant_id, subject_hash, created_at, destroyed_at) on tabib.subject_key to tabib_auditor;

-- Producers seal and read for their own tenant; only an erasure destroys.
create policy tenant on tabib.subject_key to tabib_app
  using (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid));
grant select, insert (tenant_id, subject_hash, wrapped) on tabib.subject_key to tabib_app;
grant insert, update (wrapped, destroyed_at) on tabib.subject_key to tabib_erasure;

grant insert, update on tabib.erasure_request, tabib.erasure_step to tabib_relay;
grant insert on tabib.erasure_subject, tabib.erasure_fingerprint, tabib.erasure_hold to tabib_relay;
grant update (released_by, released_at) on tabib.erasure_hold to tabib_relay;
grant insert on tabib.erasure_ack to tabib_erasure;
grant update (last_error, planned) on tabib.erasure_step to tabib_erasure;
