"""Django's generic classes, which only the type checker can subscript."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin

from email_integration.models import Delivery, DeliveryAttempt, ServerQuirks, SMTPConfig

if TYPE_CHECKING:
    AnyModelAdmin = admin.ModelAdmin[Any]
    ConfigForm = forms.ModelForm[SMTPConfig]
    ConfigFormSet = forms.BaseModelFormSet[SMTPConfig, forms.ModelForm[SMTPConfig]]
    ConfigModelAdmin = admin.ModelAdmin[SMTPConfig]
    DeliveryModelAdmin = admin.ModelAdmin[Delivery]
    QuirksModelAdmin = admin.ModelAdmin[ServerQuirks]
    AttemptInline = admin.TabularInline[DeliveryAttempt, Delivery]
else:
    AnyModelAdmin = admin.ModelAdmin
    ConfigForm = forms.ModelForm
    ConfigFormSet = forms.BaseModelFormSet
    ConfigModelAdmin = admin.ModelAdmin
    DeliveryModelAdmin = admin.ModelAdmin
    QuirksModelAdmin = admin.ModelAdmin
    AttemptInline = admin.TabularInline

__all__ = [
    "AnyModelAdmin",
    "AttemptInline",
    "ConfigForm",
    "ConfigFormSet",
    "ConfigModelAdmin",
    "DeliveryModelAdmin",
    "QuirksModelAdmin",
]
