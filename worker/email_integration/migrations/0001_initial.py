from typing import Any

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import simple_history.models
from django.conf import settings
from django.db import migrations, models

import email_integration.fields
import email_integration.models.database_time
import email_integration.models.indexes
import email_integration.models.installation
import email_integration.validators


def store_contents_as_they_are(apps: Any, schema_editor: Any) -> None:
    """Spare PostgreSQL the attempt to compress contents: what is sealed does not become smaller."""
    if schema_editor.connection.vendor == "postgresql":
        table = schema_editor.quote_name(apps.get_model("email_integration", "Delivery")._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} ALTER COLUMN content SET STORAGE EXTERNAL")


def leave_room_for_claims(apps: Any, schema_editor: Any) -> None:
    """Have PostgreSQL keep half of each page free, where it writes what a claim changes without touching any index."""
    if schema_editor.connection.vendor == "postgresql":
        table = schema_editor.quote_name(apps.get_model("email_integration", "Delivery")._meta.db_table)
        schema_editor.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("login_refused", "Login Refused"),
                            ("relay_at_fault", "Relay At Fault"),
                            ("queue_late", "Queue Late"),
                            ("in_doubt", "In Doubt"),
                            ("quarantined", "Quarantined"),
                            ("secret_ends", "Secret Ends"),
                        ],
                        max_length=20,
                    ),
                ),
                ("subject", models.CharField(blank=True, max_length=100)),
                ("text", models.TextField()),
                ("since", models.DateTimeField(default=django.utils.timezone.now)),
                ("ended_at", models.DateTimeField(null=True)),
                ("notified_at", models.DateTimeField(null=True)),
                ("notify_at", models.DateTimeField(null=True)),
                ("pending_channels", models.CharField(blank=True, max_length=20)),
                ("failures", models.PositiveSmallIntegerField(default=0)),
            ],
            options={
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("kind", "subject"), name="alert_kind_subject")],
            },
        ),
        migrations.CreateModel(
            name="CircuitBreaker",
            fields=[
                ("key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("smtp_config", models.CharField(max_length=100, verbose_name="SMTP configuration")),
                ("host", models.CharField(max_length=255, verbose_name="host")),
                ("opened_at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="open since")),
                ("failures", models.PositiveIntegerField(default=1, verbose_name="failures")),
                ("probe_at", models.DateTimeField(verbose_name="next try")),
                ("code", models.PositiveSmallIntegerField(null=True, verbose_name="code")),
                ("cause", models.CharField(blank=True, db_default="", default="", max_length=32)),
                ("reason", models.CharField(max_length=255, verbose_name="reason")),
            ],
            options={
                "verbose_name": "open circuit breaker",
                "verbose_name_plural": "open circuit breakers",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="ServerQuirks",
            fields=[
                ("key", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("smtp_config", models.CharField(max_length=100, verbose_name="SMTP configuration")),
                ("host", models.CharField(max_length=255, verbose_name="host")),
                (
                    "pipelining",
                    models.CharField(
                        choices=[
                            ("full", "as offered"),
                            ("groups", "within one mail only"),
                            ("none", "off"),
                        ],
                        default="full",
                        max_length=10,
                        verbose_name="several commands at once",
                    ),
                ),
                ("mails", models.PositiveIntegerField(blank=True, null=True, verbose_name="mails per session")),
                (
                    "recipients",
                    models.PositiveIntegerField(blank=True, null=True, verbose_name="recipients per transaction"),
                ),
                ("learned_at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="learned at")),
            ],
            options={
                "verbose_name": "learned limit of a server",
                "verbose_name_plural": "learned limits of servers",
                "ordering": ("smtp_config", "host"),
                "default_permissions": ("view", "delete"),
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                (
                    "id",
                    models.CharField(
                        help_text="The Celery task id.", max_length=255, primary_key=True, serialize=False
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("prepared", "prepared"),
                            ("queued", "queued"),
                            ("sending", "sending"),
                            ("accepted", "accepted"),
                            ("deferred", "deferred"),
                            ("failed", "failed"),
                            ("expired", "expired"),
                            ("in_doubt", "in doubt"),
                            ("cancelled", "cancelled"),
                            ("quarantined", "quarantined"),
                        ],
                        default="queued",
                        max_length=12,
                        verbose_name="status",
                    ),
                ),
                ("version", models.PositiveIntegerField(default=0)),
                ("message_id", models.CharField(max_length=998, verbose_name="Message-ID")),
                ("from_header", models.TextField(blank=True, verbose_name="from")),
                ("from_at", models.PositiveIntegerField(null=True)),
                ("sender", models.CharField(blank=True, max_length=1000)),
                ("recipients", models.JSONField(verbose_name="recipients")),
                ("subject", models.TextField(blank=True, db_default="", default="")),
                ("copy_of", models.CharField(max_length=255, null=True)),
                ("content_file", models.CharField(blank=True, max_length=255)),
                ("content_seal", models.CharField(blank=True, max_length=100)),
                ("has_content", models.BooleanField(default=True)),
                ("content_size", models.PositiveBigIntegerField(default=0, verbose_name="size")),
                ("eight_bit", models.BooleanField(default=False)),
                ("idempotency_key", models.CharField(max_length=255, null=True, unique=True)),
                (
                    "created_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="submitted at"
                    ),
                ),
                (
                    "priority",
                    models.CharField(
                        choices=[("high", "high"), ("normal", "normal"), ("bulk", "bulk")],
                        default="normal",
                        max_length=6,
                        verbose_name="priority",
                    ),
                ),
                (
                    "in_doubt_policy",
                    models.CharField(
                        blank=True,
                        choices=[("resend", "send it again"), ("hold", "hold it until a person decides")],
                        max_length=6,
                        verbose_name="when in doubt",
                    ),
                ),
                ("due_at", models.DateTimeField(verbose_name="due at")),
                ("expires_at", models.DateTimeField(verbose_name="expires at")),
                (
                    "next_at",
                    models.DateTimeField(db_default=email_integration.models.database_time.DatabaseTime(), null=True),
                ),
                ("queue", models.CharField(blank=True, db_default="", default="", max_length=255)),
                ("batch", models.CharField(blank=True, db_default="", default="", max_length=36)),
                ("cancel_requested", models.BooleanField(db_default=False, default=False)),
                ("returned", models.PositiveSmallIntegerField(db_default=0, default=0)),
                ("attempts", models.PositiveIntegerField(default=0, verbose_name="attempts")),
                ("code", models.PositiveSmallIntegerField(null=True, verbose_name="code")),
                ("cause", models.CharField(blank=True, db_default="", default="", max_length=32)),
                ("reason", models.CharField(blank=True, max_length=255, verbose_name="reason")),
                ("smtp_config", models.CharField(blank=True, max_length=100, verbose_name="SMTP configuration")),
                ("config_version", models.CharField(blank=True, max_length=40)),
                ("worker", models.CharField(blank=True, max_length=255)),
                ("finished_at", models.DateTimeField(null=True, verbose_name="finished at")),
                ("options", models.TextField(blank=True)),
                ("traceparent", models.CharField(blank=True, max_length=55)),
                ("redirected_to", models.TextField(blank=True, verbose_name="redirected to")),
                ("waits_for_relay", models.BooleanField(default=False)),
                ("continue_after", models.DateTimeField(null=True)),
                ("content", models.BinaryField(default=b"")),
            ],
            options={
                "verbose_name": "delivery",
                "verbose_name_plural": "deliveries",
                "ordering": ("-created_at",),
                "permissions": (("view_delivery_content", "Can see subjects, addresses and contents of deliveries"),),
                "indexes": [
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("next_at__isnull", False)),
                        fields=["queue", "priority", "next_at"],
                        name="delivery_next_at",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("continue_after__isnull", False)),
                        fields=["continue_after"],
                        name="delivery_continue_after",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("waits_for_relay", True)),
                        fields=["due_at"],
                        name="delivery_waits_for_relay",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("finished_at__isnull", False)),
                        fields=["finished_at"],
                        name="delivery_finished_at",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("finished_at__isnull", False), ("has_content", True)),
                        fields=["finished_at", "has_content"],
                        name="delivery_finished_content",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(
                            ("finished_at__isnull", False), models.Q(("status", "accepted"), _negated=True)
                        ),
                        fields=["finished_at", "status"],
                        name="delivery_finished_otherwise",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("content_file", ""), _negated=True),
                        fields=["content_file"],
                        name="delivery_content_file",
                    ),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("copy_of__isnull", False)),
                        fields=["copy_of"],
                        name="delivery_copy_of",
                    ),
                    models.Index(fields=["created_at"], name="delivery_created_at"),
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("status", "accepted"), _negated=True),
                        fields=["status", "created_at"],
                        name="delivery_not_accepted",
                    ),
                    email_integration.models.indexes.LongTextIndex(fields=["message_id"], name="delivery_message_id"),
                ],
            },
        ),
        migrations.CreateModel(
            name="DeliveryBatch",
            fields=[
                ("id", models.CharField(max_length=36, primary_key=True, serialize=False)),
                ("owner", models.CharField(max_length=255)),
                ("claimed_at", models.DateTimeField()),
                ("lease_until", models.DateTimeField()),
                ("suspected_at", models.DateTimeField(null=True)),
                ("permitted", models.PositiveIntegerField()),
                ("cancel_requested", models.BooleanField(db_default=False, default=False)),
                ("items", models.JSONField()),
                ("smtp_config", models.CharField(blank=True, max_length=100)),
                ("config_version", models.CharField(blank=True, max_length=40)),
                ("from_email", models.TextField(blank=True)),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="BulkAction",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("action", models.CharField(max_length=12)),
                ("selection", models.JSONField()),
                ("position", models.JSONField(default=list)),
                ("shown", models.PositiveIntegerField()),
                ("changed", models.PositiveIntegerField(default=0)),
                ("requested", models.PositiveIntegerField(default=0)),
                ("unchanged", models.JSONField(default=dict)),
                ("version", models.PositiveIntegerField(default=0)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("ended_at", models.DateTimeField(null=True)),
                ("is_stopped", models.BooleanField(default=False)),
                ("log_entry", models.PositiveBigIntegerField(null=True)),
                (
                    "by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                (
                    "identity",
                    models.CharField(default=email_integration.models.installation.new_identity, max_length=36),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="RevokedTask",
            fields=[
                ("id", models.CharField(max_length=255, primary_key=True, serialize=False)),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=email_integration.models.database_time.DatabaseTime(), db_index=True
                    ),
                ),
            ],
            options={"default_permissions": ()},
        ),
        migrations.CreateModel(
            name="DeliveryAttempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                ("started_at", models.DateTimeField(verbose_name="started at")),
                ("finished_at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="finished at")),
                ("duration", models.FloatField(null=True, verbose_name="duration")),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("prepared", "prepared"),
                            ("queued", "queued"),
                            ("sending", "sending"),
                            ("accepted", "accepted"),
                            ("deferred", "deferred"),
                            ("failed", "failed"),
                            ("expired", "expired"),
                            ("in_doubt", "in doubt"),
                            ("cancelled", "cancelled"),
                            ("quarantined", "quarantined"),
                        ],
                        max_length=12,
                        verbose_name="outcome",
                    ),
                ),
                ("phase", models.CharField(blank=True, max_length=12, verbose_name="phase")),
                ("code", models.PositiveSmallIntegerField(null=True, verbose_name="code")),
                ("cause", models.CharField(blank=True, db_default="", default="", max_length=32)),
                ("reason", models.CharField(blank=True, max_length=255, verbose_name="reason")),
                ("reply", models.CharField(blank=True, max_length=500, verbose_name="reply")),
                ("smtp_config", models.CharField(blank=True, max_length=100, verbose_name="SMTP configuration")),
                ("config_version", models.CharField(blank=True, max_length=40, verbose_name="version")),
                ("tls_version", models.CharField(blank=True, max_length=16, verbose_name="TLS")),
                ("host", models.CharField(blank=True, max_length=255, verbose_name="host")),
                ("worker", models.CharField(blank=True, max_length=255, verbose_name="worker")),
                (
                    "delivery",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempt_log",
                        to="email_integration.delivery",
                    ),
                ),
            ],
            options={
                "verbose_name": "delivery attempt",
                "verbose_name_plural": "delivery attempts",
                "ordering": ("delivery", "number", "pk"),
                "indexes": [
                    email_integration.models.indexes.PartialIndex(
                        condition=models.Q(("outcome", "accepted"), _negated=True),
                        fields=["finished_at", "outcome"],
                        name="attempt_not_accepted",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="HistoricalSMTPConfig",
            fields=[
                ("id", models.BigIntegerField(auto_created=True, blank=True, db_index=True, verbose_name="ID")),
                (
                    "event",
                    models.CharField(
                        choices=[
                            ("created", "created"),
                            ("changed", "changed"),
                            ("activated", "activated"),
                            ("deactivated", "deactivated"),
                            ("tested", "tested"),
                            ("viewed", "viewed"),
                            ("deleted", "deleted"),
                        ],
                        max_length=12,
                        verbose_name="event",
                    ),
                ),
                ("password_changed", models.BooleanField(default=False, verbose_name="password changed")),
                ("name", models.CharField(db_index=True, max_length=100, verbose_name="name")),
                (
                    "host",
                    models.CharField(
                        max_length=255, validators=[email_integration.validators.validate_host], verbose_name="host"
                    ),
                ),
                (
                    "port",
                    models.PositiveIntegerField(
                        default=587,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(65535),
                        ],
                        verbose_name="port",
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        blank=True,
                        help_text="Without a password or OAuth, mail is sent without a login.",
                        max_length=255,
                        validators=[email_integration.validators.validate_username],
                        verbose_name="username",
                    ),
                ),
                (
                    "authentication",
                    models.CharField(
                        choices=[("none", "none"), ("password", "password"), ("oauth", "OAuth 2.0")],
                        default="password",
                        max_length=10,
                        verbose_name="authentication",
                    ),
                ),
                (
                    "oauth_grant",
                    models.CharField(
                        choices=[
                            ("client_credentials", "client credentials"),
                            ("refresh_token", "refresh token"),
                            ("jwt_bearer", "service account"),
                        ],
                        default="client_credentials",
                        help_text="With client credentials an app logs in as itself. A refresh token lets it act for one person, a service account for every person in its organization.",
                        max_length=20,
                        verbose_name="grant",
                    ),
                ),
                (
                    "oauth_endpoint",
                    models.CharField(
                        blank=True,
                        max_length=500,
                        validators=[email_integration.validators.validate_endpoint],
                        verbose_name="token endpoint",
                    ),
                ),
                (
                    "oauth_authorization_endpoint",
                    models.CharField(
                        blank=True,
                        help_text="The URL where the owner of the mailbox is asked for consent. Leave it blank for Google and Microsoft, whose URLs are known.",
                        max_length=500,
                        validators=[email_integration.validators.validate_endpoint],
                        verbose_name="authorization endpoint",
                    ),
                ),
                ("oauth_client_id", models.CharField(blank=True, max_length=255, verbose_name="client id")),
                ("oauth_scope", models.CharField(blank=True, max_length=500, verbose_name="scope")),
                (
                    "oauth_secret_ends",
                    models.DateField(
                        blank=True,
                        help_text="You will be warned before it expires. The expiry of a certificate is known and need not be entered.",
                        null=True,
                        verbose_name="client secret expires on",
                    ),
                ),
                (
                    "use_tls",
                    models.BooleanField(
                        default=True, help_text="STARTTLS, usually on port 587.", verbose_name="use TLS"
                    ),
                ),
                (
                    "use_ssl",
                    models.BooleanField(
                        default=False, help_text="TLS from the start, usually on port 465.", verbose_name="use SSL"
                    ),
                ),
                (
                    "ca_certificates",
                    models.TextField(
                        blank=True,
                        help_text="Certificates in PEM format. Only these are trusted for this server. Blank: the system's are trusted.",
                        validators=[email_integration.validators.validate_certificates],
                        verbose_name="certificate authority",
                    ),
                ),
                (
                    "ehlo_name",
                    models.CharField(
                        blank=True,
                        help_text="The name of this machine in EHLO: a full domain name, such as mail.example.com, or an address in brackets. Blank: the name of this machine, or its address if it has no full name.",
                        max_length=255,
                        validators=[email_integration.validators.validate_ehlo_name],
                        verbose_name="EHLO name",
                    ),
                ),
                (
                    "from_email",
                    models.CharField(
                        help_text="The sender of mail without one: an address, or a name and the address in angle brackets.",
                        max_length=320,
                        validators=[email_integration.validators.validate_sender],
                        verbose_name="from email",
                    ),
                ),
                (
                    "timeout",
                    models.PositiveIntegerField(
                        default=10,
                        help_text="Seconds to wait for the server.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(email_integration.validators.longest_timeout),
                        ],
                        verbose_name="timeout",
                    ),
                ),
                (
                    "pipelining",
                    models.CharField(
                        choices=[("automatic", "automatic"), ("off", "off")],
                        default="automatic",
                        help_text="Automatic: several commands are sent at once if the server offers it. Servers that fail then are detected.",
                        max_length=10,
                        verbose_name="pipelining",
                    ),
                ),
                (
                    "max_recipients",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Maximum number of recipients in one transaction; the others get the mail in the next one. Blank: as many as the server accepts.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="recipients at a time",
                    ),
                ),
                (
                    "max_connections",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Maximum number of open connections to the server for each worker process. Blank: the value of the setting SESSIONS.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="connections at a time",
                    ),
                ),
                ("is_active", models.BooleanField(default=False, verbose_name="active")),
                ("created_at", models.DateTimeField(blank=True, editable=False, verbose_name="created at")),
                ("updated_at", models.DateTimeField(blank=True, editable=False, verbose_name="updated at")),
                ("history_id", models.AutoField(primary_key=True, serialize=False)),
                ("history_date", models.DateTimeField(db_index=True)),
                ("history_change_reason", models.CharField(max_length=100, null=True)),
                (
                    "history_type",
                    models.CharField(choices=[("+", "Created"), ("~", "Changed"), ("-", "Deleted")], max_length=1),
                ),
                (
                    "history_user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "historical SMTP Configuration",
                "verbose_name_plural": "historical SMTP Configurations",
                "ordering": ("-history_date", "-history_id"),
                "get_latest_by": ("history_date", "history_id"),
            },
            bases=(simple_history.models.HistoricalChanges, models.Model),
        ),
        migrations.CreateModel(
            name="SMTPConfig",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "seal_id",
                    models.CharField(
                        default=email_integration.fields.new_row, editable=False, max_length=32, unique=True
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True, verbose_name="name")),
                (
                    "host",
                    models.CharField(
                        max_length=255, validators=[email_integration.validators.validate_host], verbose_name="host"
                    ),
                ),
                (
                    "port",
                    models.PositiveIntegerField(
                        default=587,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(65535),
                        ],
                        verbose_name="port",
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        blank=True,
                        help_text="Without a password or OAuth, mail is sent without a login.",
                        max_length=255,
                        validators=[email_integration.validators.validate_username],
                        verbose_name="username",
                    ),
                ),
                (
                    "authentication",
                    models.CharField(
                        choices=[("none", "none"), ("password", "password"), ("oauth", "OAuth 2.0")],
                        default="password",
                        max_length=10,
                        verbose_name="authentication",
                    ),
                ),
                (
                    "oauth_grant",
                    models.CharField(
                        choices=[
                            ("client_credentials", "client credentials"),
                            ("refresh_token", "refresh token"),
                            ("jwt_bearer", "service account"),
                        ],
                        default="client_credentials",
                        help_text="With client credentials an app logs in as itself. A refresh token lets it act for one person, a service account for every person in its organization.",
                        max_length=20,
                        verbose_name="grant",
                    ),
                ),
                (
                    "oauth_endpoint",
                    models.CharField(
                        blank=True,
                        max_length=500,
                        validators=[email_integration.validators.validate_endpoint],
                        verbose_name="token endpoint",
                    ),
                ),
                (
                    "oauth_authorization_endpoint",
                    models.CharField(
                        blank=True,
                        help_text="The URL where the owner of the mailbox is asked for consent. Leave it blank for Google and Microsoft, whose URLs are known.",
                        max_length=500,
                        validators=[email_integration.validators.validate_endpoint],
                        verbose_name="authorization endpoint",
                    ),
                ),
                ("oauth_client_id", models.CharField(blank=True, max_length=255, verbose_name="client id")),
                ("oauth_scope", models.CharField(blank=True, max_length=500, verbose_name="scope")),
                (
                    "oauth_secret_ends",
                    models.DateField(
                        blank=True,
                        help_text="You will be warned before it expires. The expiry of a certificate is known and need not be entered.",
                        null=True,
                        verbose_name="client secret expires on",
                    ),
                ),
                (
                    "oauth_client_secret",
                    email_integration.fields.EncryptedTextField(
                        blank=True, default="", row="seal_id", verbose_name="client secret"
                    ),
                ),
                (
                    "oauth_refresh_token",
                    email_integration.fields.EncryptedTextField(
                        blank=True, default="", row="seal_id", verbose_name="refresh token"
                    ),
                ),
                (
                    "oauth_private_key",
                    email_integration.fields.EncryptedTextField(
                        blank=True, default="", row="seal_id", verbose_name="private key"
                    ),
                ),
                (
                    "password",
                    email_integration.fields.EncryptedTextField(
                        blank=True, default="", row="seal_id", verbose_name="password"
                    ),
                ),
                (
                    "use_tls",
                    models.BooleanField(
                        default=True, help_text="STARTTLS, usually on port 587.", verbose_name="use TLS"
                    ),
                ),
                (
                    "use_ssl",
                    models.BooleanField(
                        default=False, help_text="TLS from the start, usually on port 465.", verbose_name="use SSL"
                    ),
                ),
                (
                    "ca_certificates",
                    models.TextField(
                        blank=True,
                        help_text="Certificates in PEM format. Only these are trusted for this server. Blank: the system's are trusted.",
                        validators=[email_integration.validators.validate_certificates],
                        verbose_name="certificate authority",
                    ),
                ),
                (
                    "ehlo_name",
                    models.CharField(
                        blank=True,
                        help_text="The name of this machine in EHLO: a full domain name, such as mail.example.com, or an address in brackets. Blank: the name of this machine, or its address if it has no full name.",
                        max_length=255,
                        validators=[email_integration.validators.validate_ehlo_name],
                        verbose_name="EHLO name",
                    ),
                ),
                (
                    "from_email",
                    models.CharField(
                        help_text="The sender of mail without one: an address, or a name and the address in angle brackets.",
                        max_length=320,
                        validators=[email_integration.validators.validate_sender],
                        verbose_name="from email",
                    ),
                ),
                (
                    "timeout",
                    models.PositiveIntegerField(
                        default=10,
                        help_text="Seconds to wait for the server.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(email_integration.validators.longest_timeout),
                        ],
                        verbose_name="timeout",
                    ),
                ),
                (
                    "pipelining",
                    models.CharField(
                        choices=[("automatic", "automatic"), ("off", "off")],
                        default="automatic",
                        help_text="Automatic: several commands are sent at once if the server offers it. Servers that fail then are detected.",
                        max_length=10,
                        verbose_name="pipelining",
                    ),
                ),
                (
                    "max_recipients",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Maximum number of recipients in one transaction; the others get the mail in the next one. Blank: as many as the server accepts.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="recipients at a time",
                    ),
                ),
                (
                    "max_connections",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Maximum number of open connections to the server for each worker process. Blank: the value of the setting SESSIONS.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="connections at a time",
                    ),
                ),
                ("is_active", models.BooleanField(default=False, verbose_name="active")),
                ("tested_at", models.DateTimeField(editable=False, null=True, verbose_name="last check")),
                ("test_passed", models.BooleanField(editable=False, null=True, verbose_name="check passed")),
                (
                    "test_detail",
                    models.CharField(blank=True, editable=False, max_length=255, verbose_name="check result"),
                ),
                ("tested_settings", models.CharField(blank=True, editable=False, max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated at")),
                (
                    "active_slot",
                    models.GeneratedField(
                        db_persist=True,
                        expression=models.Case(
                            models.When(is_active=True, then=models.Value(1)), default=models.Value(None)
                        ),
                        output_field=models.SmallIntegerField(null=True),
                        unique=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "SMTP Configuration",
                "verbose_name_plural": "SMTP Configurations",
                "ordering": ("name",),
                "permissions": (
                    ("activate_smtpconfig", "Can activate and deactivate SMTP configurations"),
                    ("test_smtpconfig", "Can test SMTP configurations"),
                ),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("use_ssl", True), ("use_tls", True), _negated=True),
                        name="smtpconfig_tls_or_ssl",
                        violation_error_message="TLS and SSL exclude each other: choose STARTTLS (TLS) or SSL, not both.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("port__gte", 1), ("port__lte", 65535)),
                        name="smtpconfig_port",
                        violation_error_message="A port is a number from 1 to 65535.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="OAuthToken",
            fields=[
                (
                    "config",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="oauth_token",
                        serialize=False,
                        to="email_integration.smtpconfig",
                    ),
                ),
                (
                    "seal_id",
                    models.CharField(
                        default=email_integration.fields.new_row, editable=False, max_length=32, unique=True
                    ),
                ),
                ("settings", models.CharField(max_length=64)),
                ("access_token", email_integration.fields.EncryptedTextField(blank=True, default="", row="seal_id")),
                ("fetched_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
                ("lease", models.CharField(blank=True, max_length=32)),
                ("lease_until", models.DateTimeField(null=True)),
                ("failed_at", models.DateTimeField(null=True)),
                ("error", models.CharField(blank=True, max_length=255)),
            ],
            options={
                "verbose_name": "OAuth token",
                "verbose_name_plural": "OAuth tokens",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="RefreshFamily",
            fields=[
                (
                    "seal_id",
                    models.CharField(
                        default=email_integration.fields.new_row, editable=False, max_length=32, unique=True
                    ),
                ),
                ("fingerprint", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("provider", models.CharField(blank=True, max_length=300)),
                ("newest", email_integration.fields.EncryptedTextField(blank=True, default="", row="seal_id")),
                ("asked_at", models.DateTimeField(null=True)),
                ("used_at", models.DateTimeField(null=True)),
                ("lease", models.CharField(blank=True, max_length=32)),
                ("lease_until", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "family of refresh tokens",
                "verbose_name_plural": "families of refresh tokens",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="SendingPause",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ("since", models.DateTimeField(auto_now_add=True, verbose_name="since")),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                (
                    "by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="by",
                    ),
                ),
            ],
            options={
                "verbose_name": "pause",
                "verbose_name_plural": "pauses",
                "permissions": (("pause_sending", "Can pause and resume sending"),),
                "default_permissions": (),
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="sendingpause_one_row")],
            },
        ),
        migrations.RunPython(store_contents_as_they_are, migrations.RunPython.noop),
        migrations.RunPython(leave_room_for_claims, migrations.RunPython.noop),
    ]
