"""Result files -> one HTML page."""

from unifashion_pl.report.build import build_report as build_report
