/* help: the rows of commands.def for a reader at a terminal. */
#include <stdio.h>
#include <string.h>

#include "cli/out.h"
#include "cli/parse.h"

/* Text broken at blanks, `indent` columns in. */
static void wrapped(const struct cli *c, const char *text, int indent)
{
	size_t width = c->width > 40 && c->width < 100 ? (size_t)c->width : 80, column = 0;

	while (*text) {
		size_t n = strcspn(text, " ");

		if (column && column + 1 + n > width) {
			putchar('\n');
			column = 0;
		}
		column += (size_t)printf("%*s%.*s", column ? 1 : indent, "", (int)n, text);
		text += n;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static void print_flags(const char *verb)
{
	for (const struct flag *f = flags; f->name; f++) {
		char left[64], letter[8] = "    ";

		if (strcmp(f->verb, verb) != 0)
			continue;
		if (f->letter)
			snprintf(letter, sizeof letter, "-%c, ", f->letter);
		snprintf(left, sizeof left, "%s--%s%s%s", letter, f->name, f->argument && f->argument[0] != '[' ? " " : "",
			 f->argument ? f->argument : "");
		printf("  %-32s %s\n", left, f->summary);
	}
}

static void verb_help(const struct cli *c, const struct verb *v)
{
	bool has_flags = false;

	for (const struct flag *f = flags; f->name; f++)
		has_flags |= strcmp(f->verb, v->name) == 0;
	printf("%ssnaptrail %s%s%s%s%s: %s\n\n", paint(c, PAINT_BOLD), v->name, paint(c, PAINT_NONE),
	       has_flags ? " [FLAG]..." : "", *v->synopsis ? " " : "", v->synopsis, v->summary);
	wrapped(c, v->help, 0);
	if (has_flags) {
		printf("\nFlags:\n");
		print_flags(v->name);
	}
	printf("\nWith every verb:\n");
	print_flags("global");
}

static void overview(const struct cli *c)
{
	printf("snaptrail: a flight recorder and time machine for the state of programs\n\n"
	       "Usage: snaptrail VERB [FLAG]... [ARGUMENT]...\n\n%sVerbs%s\n", paint(c, PAINT_BOLD), paint(c, PAINT_NONE));
	for (const struct verb *v = verbs; v->name; v++) {
		char left[64];

		snprintf(left, sizeof left, "%s %s", v->name, v->synopsis);
		printf("  %-24s %s\n", left, v->summary);
	}
	printf("\n%sWith every verb%s\n", paint(c, PAINT_BOLD), paint(c, PAINT_NONE));
	print_flags("global");
	printf("\n%sTopics%s (snaptrail help TOPIC)\n ", paint(c, PAINT_BOLD), paint(c, PAINT_NONE));
	for (const struct topic *t = topics; t->name; t++)
		printf(" %s", t->name);
	printf("\n\nBegin with\n  snaptrail run CMD      record a command\n"
	       "  snaptrail show         see its state at the end\n"
	       "  snaptrail log          see everything that happened\n");
}

int help_text(struct cli *c, const char *topic)
{
	const struct verb *v = topic ? verb_find(topic) : NULL;
	const char *near;
	char hint[64];

	if (v || !topic) {
		out_page(c);
		if (v)
			verb_help(c, v);
		else
			overview(c);
		return EXIT_YES;
	}
	for (const struct topic *t = topics; t->name; t++) {
		if (strcmp(t->name, topic) == 0) {
			out_page(c);
			printf("%s%s%s\n\n", paint(c, PAINT_BOLD), t->title, paint(c, PAINT_NONE));
			wrapped(c, t->text, 0);
			return EXIT_YES;
		}
	}
	near = verb_near(topic);
	snprintf(hint, sizeof hint, near ? "did you mean `snaptrail help %s`?" : "`snaptrail help` lists verbs and topics", near);
	return out_error(c, EXIT_USAGE, hint, "no verb or topic '%.60s'", topic);
}

int cmd_help(struct cli *c)
{
	return help_text(c, c->words[0]);
}
