"""One evaluation from settings to files: plan, dialogues, verdicts, summary; resumed by running the same settings again."""
