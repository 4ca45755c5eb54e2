<?php
// What WordPress finds out about a theme's files it keeps for half an hour, so a copy made later than that after the
// freeze would read a hundred files for its first page. They change with the theme, and then it looks anew anyway.
add_filter('wp_theme_files_cache_ttl', fn() => YEAR_IN_SECONDS);
