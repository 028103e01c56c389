-- Up Migration

-- Who may approve, and with which key. Only the public half is here.
create table tabib.operator (
  name text primary key,
  kid text not null unique,
  public_jwk jsonb not null,
  added_by text not null,
  added_at timestamptz not null default now()
);

-- An approval opens one operation once, whatever becomes of it.
create table tabib.approval_use (
  jti uuid primary key,
  plan_hash text not null,
  approver text not null references tabib.operator (name),
  actor text not null,
  run_id uuid not null,
  used_at timestamptz not null default now()
);

grant select, insert on tabib.operator, tabib.approval_use to tabib_relay;
grant select on tabib.operator, tabib.approval_use to tabib_auditor;
