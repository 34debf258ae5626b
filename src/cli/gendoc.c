/* Built and run at build time: `gendoc man1|man5|bash|zsh|fish|ini` prints the
 * manual pages, the completions and conf/snaptrail.ini from the same rows that
 * the command parses.  Not part of the command. */
#include <stdbool.h>
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

/* ---- completion: what three shells have in common ---- */

#define PROFILES "default low-overhead forensic memory-only ci"
#define REFERENCES "latest first live"
/* Names end at two blanks; one cannot be within a name's column otherwise. */
#define SESSIONS "snaptrail sessions --no-pager --color=never 2>/dev/null | sed '1d;s/  .*//'"

enum operand { NOTHING, CHOICES, FILES, FOLDERS, PROFILE, SESSION, REFERENCE, COMMAND, HELP, TEXT };

static bool global(const struct flag *f) { return strcmp(f->verb, "global") == 0; }
static bool again(const struct flag *f) { return strstr(f->summary, "again") != NULL; }
/* Its value may only follow behind `=`. */
static bool attached(const struct flag *f) { return f->argument && *f->argument == '['; }
static bool separate(const struct flag *f) { return f->argument && *f->argument != '['; }

/* What the value of a flag is. */
static enum operand value_of(const struct flag *f)
{
	if (f->argument == NULL)
		return NOTHING;
	if (strchr(f->argument, '|'))
		return CHOICES;
	if (strcmp(f->argument, "FILE") == 0)
		return FILES;
	if (strcmp(f->argument, "DIR") == 0)
		return FOLDERS;
	if (strcmp(f->name, "profile") == 0)
		return PROFILE;
	return global(f) && strcmp(f->name, "session") == 0 ? SESSION : TEXT;
}

/* What the words behind a verb are, as its synopsis says. */
static enum operand operand_of(const struct verb *v)
{
	static const struct { const char *word; enum operand is; } words[] = {
		{ "SESSION", SESSION }, { "REF", REFERENCE }, { "A B", REFERENCE }, { "CMD", COMMAND },
		{ "FILE", FILES }, { "TOPIC", HELP },
	};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (strstr(v->synopsis, words[i].word))
			return words[i].is;
	return *v->synopsis ? TEXT : NOTHING;
}

/* `start|stop` before the rest, or nothing: how long. */
static size_t first_words(const struct verb *v)
{
	size_t n = strspn(v->synopsis, "abcdefghijklmnopqrstuvwxyz|");

	return memchr(v->synopsis, '|', n) ? n : 0;
}

/* a|b|c with blanks between; what may come only behind `=` without its brackets. */
static void put_choices(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strchr("[]=", s[i]))
			putchar(s[i] == '|' ? ' ' : s[i]);
}

static void put_help_words(void)
{
	for (const struct verb *v = verbs; v->name; v++)
		printf("%s ", v->name);
	for (const struct topic *t = topics; t->name; t++)
		printf("%s%s", t->name, t[1].name ? " " : "");
}

/* Text within single quotes: sh ends them for one, fish escapes it. */
static void put_quoted(const char *s, const char *quote)
{
	for (; *s; s++)
		if (*s == '\'')
			fputs(quote, stdout);
		else
			putchar(*s);
}

/* Flags that take the next word, as patterns: a verb stands behind them. */
static void put_global_patterns(const char *between)
{
	const char *before = "";

	for (const struct flag *f = flags; f->name; f++) {
		if (!global(f) || !separate(f))
			continue;
		printf("%s--%s", before, f->name);
		before = between;
		if (f->letter)
			printf("%s-%c", between, f->letter);
	}
}

/* ---- bash ---- */

static void bash_flags(const char *verb)
{
	for (const struct flag *f = flags; f->name; f++)
		if (strcmp(f->verb, verb) == 0)
			printf(" --%s", f->name);
}

static void bash_reply(enum operand is, const char *choices, size_t n)
{
	switch (is) {
	case CHOICES:
		fputs("COMPREPLY=($(compgen -W '", stdout);
		put_choices(choices, n);
		fputs("' -- \"$cur\"))", stdout);
		break;
	case FILES: fputs("COMPREPLY=($(compgen -f -- \"$cur\"))", stdout); break;
	case FOLDERS: fputs("COMPREPLY=($(compgen -d -- \"$cur\"))", stdout); break;
	case PROFILE: fputs("COMPREPLY=($(compgen -W '" PROFILES "' -f -- \"$cur\"))", stdout); break;
	case REFERENCE: fputs("COMPREPLY=($(compgen -W '" REFERENCES "' -- \"$cur\"))", stdout); break;
	case SESSION: fputs("_snaptrail_sessions", stdout); break;
	case HELP:
		fputs("COMPREPLY=($(compgen -W '", stdout);
		put_help_words();
		fputs("' -- \"$cur\"))", stdout);
		break;
	case COMMAND: fputs("COMPREPLY=($(compgen -c -- \"$cur\"))", stdout); break;
	default: fputs("return", stdout); break;
	}
}

static void bash_values(void)
{
	for (const struct flag *f = flags; f->name; f++) {
		const char *verb = global(f) ? "*" : f->verb;

		if (!separate(f))
			continue;
		printf("\t%s:--%s", verb, f->name);
		if (f->letter)
			printf("|%s:-%c", verb, f->letter);
		fputs(") ", stdout);
		bash_reply(value_of(f), f->argument, strlen(f->argument));
		fputs("; return ;;\n", stdout);
	}
}

static void bash_operands(void)
{
	for (const struct verb *v = verbs; v->name; v++) {
		size_t n = first_words(v);

		if (n) {
			printf("\t*:%s:1) ", v->name);
			bash_reply(CHOICES, v->synopsis, n);
			fputs(" ;;\n", stdout);
		}
		if (strcmp(v->name, "run") == 0) {
			fputs("\t*:run:*) declare -F _command_offset >/dev/null && _command_offset $((i + 1)) || "
			      "COMPREPLY=($(compgen -c -- \"$cur\")) ;;\n", stdout);
		} else if (operand_of(v) > CHOICES && operand_of(v) < TEXT) {
			printf("\t*:%s:*) ", v->name);
			bash_reply(operand_of(v), NULL, 0);
			fputs(" ;;\n", stdout);
		}
	}
}

static void bash(void)
{
	fputs("# bash completion for snaptrail\n"
	      "# A name may hold anything: it is never evaluated.\n"
	      "_snaptrail_sessions()\n{\n\tlocal name\n\twhile IFS= read -r name; do\n"
	      "\t\t[[ $name == \"$cur\"* ]] && COMPREPLY+=(\"$(printf %q \"$name\")\")\n"
	      "\tdone < <(" SESSIONS ")\n}\n"
	      "_snaptrail()\n{\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i\n"
	      "\tCOMPREPLY=()\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t", stdout);
	put_global_patterns("|");
	fputs(") ((i++)) ;;\n\t\t-*) ;;\n\t\t*) verb=${COMP_WORDS[i]}; break ;;\n\t\tesac\n\tdone\n"
	      "\tcase $verb:$prev in\n", stdout);
	bash_values();
	fputs("\tesac\n\tcase $cur:$verb:$((COMP_CWORD - i)) in\n", stdout);
	for (const struct verb *v = verbs; v->name; v++) {
		printf("\t-*:%s:*) COMPREPLY=($(compgen -W '", v->name);
		bash_flags(v->name);
		bash_flags("global");
		fputs("' -- \"$cur\")) ;;\n", stdout);
	}
	fputs("\t-*::*) COMPREPLY=($(compgen -W '", stdout);
	bash_flags("global");
	fputs("' -- \"$cur\")) ;;\n\t*::*) COMPREPLY=($(compgen -W '", stdout);
	for (const struct verb *v = verbs; v->name; v++)
		printf(" %s", v->name);
	fputs("' -- \"$cur\")) ;;\n", stdout);
	bash_operands();
	fputs("\tesac\n}\ncomplete -F _snaptrail snaptrail\n", stdout);
}

/* ---- zsh ---- */

static void zsh_action(enum operand is, const char *choices, size_t n)
{
	switch (is) {
	case CHOICES:
		putchar('(');
		put_choices(choices, n);
		putchar(')');
		break;
	case FILES: fputs("_files", stdout); break;
	case FOLDERS: fputs("_files -/", stdout); break;
	case PROFILE: fputs("_snaptrail_profiles", stdout); break;
	case SESSION: fputs("_snaptrail_sessions", stdout); break;
	case REFERENCE: fputs("(" REFERENCES ")", stdout); break;
	case COMMAND: fputs("_command_names -e", stdout); break;
	case HELP:
		putchar('(');
		put_help_words();
		putchar(')');
		break;
	default: putchar(' '); break;
	}
}

/* A description stands in brackets. */
static void zsh_description(const char *s)
{
	for (; *s; s++) {
		if (strchr("[]", *s))
			putchar('\\');
		put_quoted((char[]){ *s, 0 }, "'\\''");
	}
}

/* One word of _arguments for a flag in one of its two spellings. */
static void zsh_flag(const struct flag *f, bool brief)
{
	fputs("\t\t'", stdout);
	if (again(f))
		putchar('*');
	else if (f->letter)
		printf("(-%c --%s)", f->letter, f->name);
	if (brief)
		printf("-%c%s", f->letter, f->argument ? "+" : "");
	else
		printf("--%s%s", f->name, attached(f) ? "=-" : f->argument ? "=" : "");
	putchar('[');
	zsh_description(f->summary);
	putchar(']');
	if (f->argument) {
		fputs(attached(f) ? "::" : ":", stdout);
		fputs(f->name, stdout);
		putchar(':');
		zsh_action(value_of(f), f->argument, strlen(f->argument));
	}
	fputs("'\n", stdout);
}

static void zsh_flags(const char *verb)
{
	for (const struct flag *f = flags; f->name; f++) {
		if (strcmp(f->verb, verb) != 0)
			continue;
		zsh_flag(f, false);
		if (f->letter)
			zsh_flag(f, true);
	}
}

static void zsh_operands(const struct verb *v)
{
	size_t n = first_words(v);
	enum operand is = operand_of(v);

	if (n) {
		printf("\t\t'1:%s:", v->name);
		zsh_action(CHOICES, v->synopsis, n);
		fputs("'\n", stdout);
	}
	if (strcmp(v->name, "run") == 0) {
		fputs("\t\t'(-)1:command:_command_names -e'\n\t\t'*::argument:_normal'\n", stdout);
	} else if (is != NOTHING) {
		fputs("\t\t'*:argument:", stdout);
		zsh_action(is, NULL, 0);
		fputs("'\n", stdout);
	}
}

static void zsh(void)
{
	fputs("#compdef snaptrail\n# zsh completion for snaptrail\n"
	      "_snaptrail_sessions()\n{\n\tlocal -a names expl\n\tnames=(${(f)\"$(" SESSIONS ")\"})\n"
	      "\t_wanted sessions expl session compadd -a names\n}\n"
	      "_snaptrail_profiles()\n{\n\t_alternative 'profiles:profile:(" PROFILES ")' 'files:file:_files'\n}\n"
	      "_snaptrail()\n{\n\tlocal curcontext=$curcontext state line ret=1\n\tlocal -a every verbs own\n"
	      "\ttypeset -A opt_args\n\tevery=(\n", stdout);
	zsh_flags("global");
	fputs("\t)\n\tverbs=(\n", stdout);
	for (const struct verb *v = verbs; v->name; v++) {
		printf("\t\t'%s:", v->name);
		put_quoted(v->summary, "'\\''");
		fputs("'\n", stdout);
	}
	fputs("\t)\n\t_arguments -C $every '1:verb:->verb' '*::argument:->rest' && ret=0\n\tcase $state in\n"
	      "\tverb) _describe -t verbs verb verbs && ret=0; return ret ;;\n\trest) ;;\n\t*) return ret ;;\n\tesac\n"
	      "\tcase $words[1] in\n", stdout);
	for (const struct verb *v = verbs; v->name; v++) {
		printf("\t%s) own=(\n", v->name);
		zsh_flags(v->name);
		zsh_operands(v);
		fputs("\t) ;;\n", stdout);
	}
	fputs("\tesac\n\t_arguments -S $every $own && ret=0\n\treturn ret\n}\n_snaptrail \"$@\"\n", stdout);
}

/* ---- fish ---- */

static void fish_argument(enum operand is, const char *choices, size_t n)
{
	switch (is) {
	case CHOICES:
		fputs(" -a '", stdout);
		put_choices(choices, n);
		putchar('\'');
		break;
	case FILES: fputs(" -F", stdout); break;
	case FOLDERS: fputs(" -a '(__fish_complete_directories)'", stdout); break;
	case PROFILE: fputs(" -F -a '" PROFILES "'", stdout); break;
	case SESSION: fputs(" -a '(__snaptrail_sessions)'", stdout); break;
	case REFERENCE: fputs(" -a '" REFERENCES "'", stdout); break;
	case COMMAND: fputs(" -a '(__fish_complete_command)'", stdout); break;
	case HELP:
		fputs(" -a '", stdout);
		put_help_words();
		putchar('\'');
		break;
	default: break;
	}
}

static void fish_flags(void)
{
	for (const struct flag *f = flags; f->name; f++) {
		enum operand is = value_of(f);

		fputs("complete -c snaptrail", stdout);
		if (!global(f))
			printf(" -n '__snaptrail_in %s'", f->verb);
		printf(" -l %s", f->name);
		if (f->letter)
			printf(" -s %c", f->letter);
		if (separate(f))
			fputs(is == FILES || is == PROFILE ? " -r" : " -x", stdout);
		fish_argument(is, f->argument, f->argument ? strlen(f->argument) : 0);
		fputs(" -d '", stdout);
		put_quoted(f->summary, "\\'");
		fputs("'\n", stdout);
	}
}

static void fish_verb(const struct verb *v)
{
	size_t n = first_words(v);
	enum operand is = operand_of(v);

	fputs("complete -c snaptrail -n '__snaptrail_in \"\"' ", stdout);
	printf("-a %s -d '", v->name);
	put_quoted(v->summary, "\\'");
	fputs("'\n", stdout);
	if (n) {
		printf("complete -c snaptrail -n '__snaptrail_in %s'", v->name);
		fish_argument(CHOICES, v->synopsis, n);
		putchar('\n');
	}
	if (is == NOTHING || is == TEXT)
		return;
	printf("complete -c snaptrail -n '__snaptrail_in %s'", v->name);
	if (strcmp(v->name, "run") == 0)
		fputs(" -a '(__fish_complete_subcommand --fcs-skip=2)'", stdout);
	else
		fish_argument(is, NULL, 0);
	putchar('\n');
}

static void fish(void)
{
	fputs("# fish completion for snaptrail\n"
	      "function __snaptrail_sessions\n\t" SESSIONS "\nend\n"
	      "# The verb before the cursor, or nothing.\n"
	      "function __snaptrail_verb\n\tset -l skip 0\n\tset -l words (commandline -opc)\n"
	      "\tfor w in $words[2..-1]\n\t\tif test $skip = 1\n\t\t\tset skip 0\n\t\t\tcontinue\n\t\tend\n"
	      "\t\tswitch $w\n\t\tcase ", stdout);
	put_global_patterns(" ");
	fputs("\n\t\t\tset skip 1\n\t\tcase '-*'\n\t\tcase '*'\n\t\t\techo $w\n\t\t\treturn\n\t\tend\n\tend\nend\n"
	      "function __snaptrail_in\n\tset -l verb (__snaptrail_verb)\n\ttest \"$verb\" = \"$argv[1]\"\nend\n"
	      "complete -c snaptrail -f\n", stdout);
	for (const struct verb *v = verbs; v->name; v++)
		fish_verb(v);
	fish_flags();
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*print)(void); } kinds[] = {
		{ "man1", man1 }, { "man5", man5 }, { "bash", bash }, { "zsh", zsh },
		{ "fish", fish }, { "ini", ini },
	};

	for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
		if (strcmp(argv[1], kinds[i].name) == 0) {
			kinds[i].print();
			return fflush(stdout) != 0;
		}
	}
	fprintf(stderr, "usage: gendoc man1|man5|bash|zsh|fish|ini\n");
	return 2;
}
