-- Up Migration

-- A third index cost a producer 0.6 us of an insert's 12. What it led to, the partitions of the days nearly do as well:
-- `outbox replay` counts its events through one day more at most, and nothing else goes by this time.
drop index virtual_care.outbox_created_at;
drop index billing.outbox_created_at;
drop index communication.outbox_created_at;
