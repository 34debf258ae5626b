/* An adapter for snaptrail in one page: a filter that passes its input on and
 * reports lines that begin with a sign.  It looks the door up at run time, as an
 * adapter in any language does, and needs report.h for the struct alone.
 *
 *     + NAME TEXT    a task begins        % NAME 0.5     how much of it is done
 *     - NAME TEXT    it is done           ! NAME TEXT    it failed
 *     = NAME 12.5    a metric
 *
 *     cc -o adapter adapter-example.c && make 2>&1 | snaptrail run -- ./adapter */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <snaptrail/report.h>

static snaptrail_report_function door;

static void report(char sign, const char *name, const char *text)
{
	struct snaptrail_report r;

	memset(&r, 0, sizeof r);
	r.size = sizeof r;
	r.key = name;
	r.key_len = SNAPTRAIL_REPORT_TO_NUL;
	r.number = strtod(text, NULL);
	switch (sign) {
	case '+': r.kind = SNAPTRAIL_REPORT_TASK_BEGIN; break;
	case '%': r.kind = SNAPTRAIL_REPORT_TASK_PROGRESS; break;
	case '-': r.kind = SNAPTRAIL_REPORT_TASK_COMPLETE; break;
	case '!': r.kind = SNAPTRAIL_REPORT_TASK_FAIL; break;
	case '=': r.kind = SNAPTRAIL_REPORT_METRIC; break;
	default: return;
	}
	if (sign == '-') { /* a result is a value, of any type */
		r.value_type = SNAPTRAIL_REPORT_TEXT;
		r.value.bytes = text;
		r.value_len = strlen(text);
	} else if (sign == '+' || sign == '!') {
		r.text = text;
		r.text_len = SNAPTRAIL_REPORT_TO_NUL;
	}
	door(&r);
}

int main(void)
{
	char line[4096], name[256], text[2048];
	void *found = dlsym(RTLD_DEFAULT, "snaptrail_report_v1");

	memcpy(&door, &found, sizeof door);
	while (fgets(line, sizeof line, stdin)) {
		fputs(line, stdout);
		if (door && sscanf(line + 1, " %255s %2047[^\n]", name, text) == 2)
			report(line[0], name, text);
	}
	return 0;
}
