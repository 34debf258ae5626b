/* Built and run at build time: `gendoc man1|man5|bash|ini` prints the manual
 * pages, the completion and conf/snaptrail.ini from the same rows that the
 * command parses.  Not part of the command. */
#include <stdio.h>
#include <string.h>

struct verb { const char *name, *synopsis, *summary, *help; };
struct flag { const char *verb, *name; char letter; const char *argument, *summary; };
struct topic { const char *name, *title, *text; };
struct option { const char *section, *key, *type, *initial, *choices, *original, *doc; };

#define VERB(n, s, sum, h) { #n, s, sum, h },
static const struct verb verbs[] = {
#include "cli/commands.def"
	{ 0 }
};
#define FLAG(v, n, l, a, s) { #v, n, l, a, s },
static const struct flag flags[] = {
#include "cli/commands.def"
	{ 0 }
};
#define TOPIC(n, title, text) { #n, title, text },
static const struct topic topics[] = {
#include "cli/commands.def"
	{ 0 }
};
#define OPTION(s, k, t, m, d, c, o, doc) { #s, #k, #t, d, c, o, doc },
static const struct option options[] = {
#include "base/options.def"
	{ 0 }
};

/* ---- roff ---- */

/* Text with what roff would take for itself escaped. */
static void roff(const char *s)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", stdout);
	for (; *s; s++) {
		if (*s == '\\')
			fputs("\\e", stdout);
		else if (*s == '-')
			fputs("\\-", stdout);
		else if (*s == '\'')
			fputs("\\(aq", stdout);
		else if (*s == '`')
			fputs("\\(ga", stdout);
		else
			putchar(*s);
	}
}

static void roff_line(const char *s)
{
	roff(s);
	putchar('\n');
}

static void roff_flags(const char *verb)
{
	for (const struct flag *f = flags; f->name; f++) {
		if (strcmp(f->verb, verb) != 0)
			continue;
		fputs(".TP\n", stdout);
		if (f->letter)
			printf("\\fB\\-%c\\fR, ", f->letter);
		fputs("\\fB\\-\\-", stdout);
		roff(f->name);
		fputs("\\fR", stdout);
		if (f->argument) {
			fputs(*f->argument == '[' ? "\\fI" : " \\fI", stdout);
			roff(f->argument);
			fputs("\\fR", stdout);
		}
		putchar('\n');
		roff_line(f->summary);
	}
}

static void man1(void)
{
	fputs(".TH SNAPTRAIL 1 \"\" \"snaptrail\" \"User Commands\"\n.SH NAME\n"
	      "snaptrail \\- record and revisit the state of unmodified programs\n"
	      ".SH SYNOPSIS\n\\fBsnaptrail\\fR \\fIVERB\\fR [\\fIFLAG\\fR]... [\\fIARGUMENT\\fR]...\n.SH DESCRIPTION\n"
	      "A flight recorder and time machine for the state of programs: which processes and threads there are,\n"
	      "their descriptors, environment, titles, messages and tasks, at any instant, and every change between.\n"
	      "Results go to standard output and nothing else does.\n.SH VERBS\n", stdout);
	for (const struct verb *v = verbs; v->name; v++) {
		printf(".SS \"%s ", v->name);
		roff(v->synopsis);
		fputs("\"\n", stdout);
		fputs("To ", stdout);
		roff(v->summary);
		fputs(".\n", stdout);
		roff_line(v->help);
		roff_flags(v->name);
	}
	fputs(".SH OPTIONS\nWith every verb, before or after it:\n", stdout);
	roff_flags("global");
	for (const struct topic *t = topics; t->name; t++) {
		printf(".SH \"%s\"\n", t->title);
		roff_line(t->text);
	}
	fputs(".SH EXAMPLES\n.nf\nsnaptrail run make check\nsnaptrail show \\-\\-path \\(aqresources:*\\(aq\n"
	      "snaptrail log \\(aqagents:*#status\\(aq \\-\\-since \\-5m\nsnaptrail diff latest~1 latest\n.fi\n"
	      ".SH SEE ALSO\n\\fBsnaptrail.ini\\fR(5), \\fBld.so\\fR(8), \\fBstrace\\fR(1)\n", stdout);
}

static const char *kind_words(const struct option *o)
{
	static const struct { const char *type, *words; } kinds[] = {
		{ "DURATION", "a duration with a unit" }, { "MILLIS", "a duration; a bare number is milliseconds" },
		{ "SIZE", "bytes; K, M, G" }, { "COUNT", "a number" }, { "RATE", "a number a second, e.g. 1000/s" },
		{ "BOOL", "yes or no" }, { "TEXT", "a folder" }, { "LIST", "words with commas between them" },
	};

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].type, o->type) == 0)
			return kinds[i].words;
	return "one of";
}

/* `read=yes never=no`: the words without their aliases. */
static void print_choices(const struct option *o, void (*put)(const char *))
{
	char word[64];

	for (const char *p = o->choices; *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " "), w = strcspn(p, " =");

		snprintf(word, sizeof word, " %.*s", (int)w, p);
		put(word);
		p += n;
	}
}

static void put_plain(const char *s)
{
	fputs(s, stdout);
}

static void man5(void)
{
	const char *section = "";

	fputs(".TH SNAPTRAIL.INI 5 \"\" \"snaptrail\" \"File Formats\"\n.SH NAME\n"
	      "snaptrail.ini \\- configuration of snaptrail\n.SH DESCRIPTION\n", stdout);
	for (const struct topic *t = topics; t->name; t++)
		if (strcmp(t->name, "files") == 0)
			roff_line(t->text);
	fputs("Lines are [section], key = value, or comments that begin with # or ;. A line with an unknown key or a\n"
	      "bad value is an error. Names in parentheses are the same option as it was called before; they are taken\n"
	      "in any section, and their bare numbers are milliseconds.\n", stdout);
	for (const struct option *o = options; o->key; o++) {
		if (strcmp(section, o->section) != 0)
			printf(".SH [%s]\n", section = o->section);
		fputs(".TP\n\\fB", stdout);
		roff(o->key);
		fputs("\\fR = \\fI", stdout);
		roff(o->initial);
		fputs("\\fR", stdout);
		if (*o->original) {
			fputs(" (", stdout);
			roff(o->original);
			putchar(')');
		}
		putchar('\n');
		roff(o->doc);
		fputs(" (", stdout);
		roff(kind_words(o));
		print_choices(o, roff);
		fputs(").\n", stdout);
	}
	fputs(".SH SEE ALSO\n\\fBsnaptrail\\fR(1)\n", stdout);
}

static void ini(void)
{
	const char *section = "";

	fputs("# snaptrail.ini: every option at its default.  Take away the # to change one;\n"
	      "# `snaptrail config` shows what holds and why, `snaptrail config --check FILE`\n"
	      "# reads a file for mistakes.  See snaptrail.ini(5).\n", stdout);
	for (const struct option *o = options; o->key; o++) {
		if (strcmp(section, o->section) != 0)
			printf("\n[%s]\n", section = o->section);
		printf("# %s\n", o->doc);
		if (*o->choices) {
			fputs("# one of:", stdout);
			print_choices(o, put_plain);
			putchar('\n');
		}
		printf("#%s =%s%s\n", o->key, *o->initial ? " " : "", o->initial);
	}
}

/* ---- bash ---- */

static void bash_flags(const char *verb)
{
	for (const struct flag *f = flags; f->name; f++)
		if (strcmp(f->verb, verb) == 0)
			printf(" --%s", f->name);
}

/* What may follow a flag: its choices, files, or nothing known. */
static void bash_values(void)
{
	for (const struct flag *f = flags; f->name; f++) {
		if (!f->argument || *f->argument == '[')
			continue;
		printf("\t%s:--%s) ", strcmp(f->verb, "global") == 0 ? "*" : f->verb, f->name);
		if (strchr(f->argument, '|')) {
			fputs("COMPREPLY=($(compgen -W '", stdout);
			for (const char *p = f->argument; *p; p++)
				putchar(*p == '|' ? ' ' : *p);
			fputs("' -- \"$cur\")); return ;;\n", stdout);
		} else if (strcmp(f->argument, "FILE") == 0 || strcmp(f->argument, "DIR") == 0) {
			printf("COMPREPLY=($(compgen -%c -- \"$cur\")); return ;;\n", *f->argument == 'D' ? 'd' : 'f');
		} else if (strcmp(f->name, "profile") == 0) {
			fputs("COMPREPLY=($(compgen -W 'default low-overhead forensic memory-only ci' -f -- \"$cur\")); return ;;\n",
			      stdout);
		} else {
			fputs("return ;;\n", stdout);
		}
	}
}

static void bash(void)
{
	fputs("# bash completion for snaptrail\n_snaptrail()\n{\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i\n"
	      "\tCOMPREPLY=()\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t", stdout);
	for (const struct flag *f = flags; f->name; f++)
		if (strcmp(f->verb, "global") == 0 && f->argument && *f->argument != '[')
			printf("--%s|", f->name);
	fputs("-s) ((i++)) ;;\n\t\t-*) ;;\n\t\t*) verb=${COMP_WORDS[i]}; break ;;\n\t\tesac\n\tdone\n"
	      "\tcase $verb:$prev in\n", stdout);
	bash_values();
	fputs("\tesac\n\tcase $cur:$verb in\n", stdout);
	for (const struct verb *v = verbs; v->name; v++) {
		printf("\t-*:%s) COMPREPLY=($(compgen -W '", v->name);
		bash_flags(v->name);
		bash_flags("global");
		fputs("' -- \"$cur\")) ;;\n", stdout);
	}
	fputs("\t-*:) COMPREPLY=($(compgen -W '", stdout);
	bash_flags("global");
	fputs("' -- \"$cur\")) ;;\n\t*:) COMPREPLY=($(compgen -W '", stdout);
	for (const struct verb *v = verbs; v->name; v++)
		printf(" %s", v->name);
	fputs("' -- \"$cur\")) ;;\n\t*:help) COMPREPLY=($(compgen -W '", stdout);
	for (const struct verb *v = verbs; v->name; v++)
		printf(" %s", v->name);
	for (const struct topic *t = topics; t->name; t++)
		printf(" %s", t->name);
	fputs("' -- \"$cur\")) ;;\n"
	      "\t*:run) declare -F _command_offset >/dev/null && _command_offset $((i + 1)) || COMPREPLY=($(compgen -c -- \"$cur\")) ;;\n"
	      "\t*:doctor) COMPREPLY=($(compgen -c -- \"$cur\")) ;;\n"
	      "\t*:show|*:diff) COMPREPLY=($(compgen -W 'latest first live' -- \"$cur\")) ;;\n"
	      "\tesac\n}\ncomplete -F _snaptrail snaptrail\n", stdout);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*print)(void); } kinds[] = {
		{ "man1", man1 }, { "man5", man5 }, { "bash", bash }, { "ini", ini },
	};

	for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
		if (strcmp(argv[1], kinds[i].name) == 0) {
			kinds[i].print();
			return fflush(stdout) != 0;
		}
	}
	fprintf(stderr, "usage: gendoc man1|man5|bash|ini\n");
	return 2;
}
